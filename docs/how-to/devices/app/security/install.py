"""Where somebody is logged in, and how to end that."""

from fastapi import APIRouter, Depends

from app.core.service import Service
from app.core.sessions import SessionDependency, get_user


def install_security(service: Service) -> None:
    """Serve what people can do about their own sessions."""
    router = APIRouter()

    @router.get("/security", dependencies=[Depends(get_user)])
    async def summary(session: SessionDependency) -> str:
        others = [one for one in await session.list_all() if not one.is_this]
        return f"logged in at {len(others)} other places"

    @router.post("/security/alarm", dependencies=[Depends(get_user)])
    async def end_others(session: SessionDependency) -> None:
        await session.log_out_everywhere(keep_this=True)

    service.include(router)
