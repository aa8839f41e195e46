"""What browsers ask of the service, by its settings: also of answers from the cache."""

from tests.conftest import Serve
from tests.notes import install_notes

PAGE, OTHER = "https://app.example", "https://admin.example"
HOST = {"host": "api.example"}


async def test_pages_of_named_origins_read_what_is_cached(serve: Serve) -> None:
    async with serve(install_notes, cors_origins=f"{PAGE},{OTHER}") as client:
        await client.put("/test-notes/one", json="text")
        for origin in (PAGE, OTHER, PAGE):
            answer = await client.get("/test-notes/one", headers={"origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin"
        assert "hit" in answer.headers["cache-status"]
        asked = {"origin": PAGE, "access-control-request-method": "PUT"}
        assert (await client.options("/test-notes/one", headers=asked)).status_code == 204
        other = asked | {"origin": "https://evil.example"}
        assert (await client.options("/test-notes/one", headers=other)).status_code == 403


async def test_only_its_own_hosts_are_answered(serve: Serve) -> None:
    async with serve(trusted_hosts="api.example") as client:
        assert (await client.get("/nowhere", headers=HOST)).status_code == 404
        assert (await client.get("/nowhere")).status_code == 400
        for path in ("/health/live", "/health/ready", "/metrics"):  # by whatever address
            assert (await client.get(path)).status_code == 200, path


async def test_every_answer_is_protected(serve: Serve) -> None:
    async with serve() as client:
        for path in ("/health/live", "/nowhere", "/docs"):
            answer = await client.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers
            assert "strict-transport-security" not in answer.headers
        over_tls = await client.get("https://service/health/live")
        assert over_tls.headers["strict-transport-security"] == "max-age=31536000"
