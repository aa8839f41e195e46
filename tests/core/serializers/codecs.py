"""The serializers as a service has them, and one of each kind of value that people cache."""

from typing import Any

from app.core.serializers import Serializer
from app.core.serializers.json import JsonSerializer
from app.core.serializers.msgpack import MsgpackSerializer
from app.core.serializers.pickle import PickleSerializer

SIGNING_KEY = "a secret of thirty-two characters"
SERIALIZERS: dict[str, Serializer] = {
    "json": JsonSerializer(),
    "msgpack": MsgpackSerializer(),
    "pickle": PickleSerializer([SIGNING_KEY]),
}
KEY = b"svc:1:item:{i1}"


def round_trip(serializer: Serializer, type_: Any, value: Any) -> Any:
    """As through Redis: written by one process, read by another."""
    payload = serializer.codec(type_).dumps(value, key=KEY)
    return serializer.codec(type_).loads(payload, key=KEY)
