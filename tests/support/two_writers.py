"""Two transactions in Prefect's database: the first reads, waits and writes, and the second writes meanwhile."""

import asyncio

import sqlalchemy as sa
from prefect.server.database import provide_database_interface


async def main() -> None:
    """Print whether both have written."""
    db = provide_database_interface()
    await db.create_db()
    both_read = asyncio.Event()

    async def write(session: object, name: str) -> None:
        await session.execute(sa.insert(db.Variable).values(name=name, value=1))  # type: ignore[attr-defined]

    async def first() -> None:
        async with db.session_context(begin_transaction=True) as session:
            await session.execute(sa.select(db.Variable))
            both_read.set()
            await asyncio.sleep(1)
            await write(session, "first")

    async def second() -> None:
        await both_read.wait()
        async with db.session_context(begin_transaction=True) as session:
            await write(session, "second")

    done = await asyncio.gather(first(), second(), return_exceptions=True)
    print([str(error).splitlines()[0] for error in done if isinstance(error, BaseException)] or "both")


asyncio.run(main())
