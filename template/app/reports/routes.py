"""Reports, guarded by Redis alone.

No route asks what its caller may do. `RoleRedis` logs in to Redis as the caller's role, and Redis
denies the rest, whatever the code here tries: `access.toml` says who may do what.
"""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path

from app.core.access import IdentityDependency, RoleRedis
from app.reports.models import Report, ReportText

Name = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$")]
_DENIED: dict[int | str, dict[str, Any]] = {
    401: {"description": "No valid token"},
    403: {"description": "Your role may not"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "No such report"}}


def create_reports_router(service: str) -> APIRouter:
    """Keeps all reports in one hash, so that their names are known without SCAN."""
    router = APIRouter(prefix="/reports", tags=["reports"], responses=_DENIED)
    key = f"{service}:reports"

    @router.get("")
    async def list_reports(redis: RoleRedis) -> list[str]:
        names: list[bytes] = await redis.execute_command("HKEYS", key)
        return sorted(name.decode() for name in names)

    @router.get("/{name}", responses=_UNKNOWN)
    async def read_report(name: Name, redis: RoleRedis) -> Report:
        found = await redis.hget(key, name)
        if found is None:
            raise HTTPException(404, "no such report")
        return Report.model_validate_json(found)

    @router.put("/{name}")
    async def write_report(
        name: Name, new: ReportText, redis: RoleRedis, identity: IdentityDependency
    ) -> Report:
        report = Report(text=new.text, author=identity.subject)
        await redis.hset(key, name, report.model_dump_json())
        return report

    @router.delete("/{name}", status_code=204, responses=_UNKNOWN)
    async def delete_report(name: Name, redis: RoleRedis) -> None:
        if not await redis.hdel(key, name):
            raise HTTPException(404, "no such report")

    return router
