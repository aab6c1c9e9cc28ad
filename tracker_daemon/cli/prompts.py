"""`tracker-daemon prompts`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from rich.padding import Padding

from tracker_daemon.cli.decisions import print_table
from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import Csv, cell, print_csv, print_json
from tracker_daemon.cli.question import connected_to, filtered
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.config import Settings
from tracker_daemon.embeddings import TextEmbedder
from tracker_daemon.queries import MAX_ALIKE, Alike, AlikePrompts, Filter, Prompts, Told, reading


@filtered
def prompts(
    wanted: Filter,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the prompts are to be like.")],
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Rank by the words of TEXT as well, written as for `search`.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_ALIKE, help="Decisions at most.")] = 20,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Find the decisions whose prompts are most like a text.

    The provider of the settings (TRACKER_EMBEDDING_PROVIDER) makes its embedding, and those of its model are
    compared: at a distance of 0 lies what is the same, at 1 what has nothing to do with it.
    """
    asked = Prompts(**msgspec.structs.asdict(wanted), text=text, hybrid=hybrid, limit=limit)
    found = asyncio.run(_answer(load(config_file, settings), asked))
    if as_json:
        print_json(found)
    elif as_csv:
        columns = [*Told.__struct_fields__, *Alike.__struct_fields__[1:]]
        print_csv(map(_row, found.rows), columns)
    else:
        _print(found)


async def _answer(settings: Settings, asked: Prompts) -> AlikePrompts:
    about = settings.embedding
    texts = TextEmbedder(about, about.timeout_seconds, settings.redact.redactor)
    try:
        embedded = await asked.embedded(texts.embed)
    finally:
        await texts.close()
    async with connected_to(settings) as connection, reading(connection):
        return await embedded.answer(connection)


def _row(found: Alike) -> dict[str, Any]:
    return msgspec.structs.asdict(found.decision) | msgspec.structs.asdict(found)


def _print(found: AlikePrompts) -> None:
    for place, row in enumerate(found.rows):
        print_table([row.decision], header=not place)
        console().print(Padding(cell(", ".join(_ranks(row))), (0, 0, 1, 2)))
    for sentence in _remarks(found):
        typer.echo(visible(sentence))


def _ranks(row: Alike) -> Iterator[str]:
    yield "no embedding of this model" if row.distance is None else f"distance {row.distance:.3f}"
    if row.by_embedding is not None:
        yield f"by embedding {row.by_embedding}."
    if row.by_words is not None:
        yield f"by words {row.by_words}."


def _remarks(found: AlikePrompts) -> Iterator[str]:
    if not found.embedded:
        yield "No decision has an embedding yet."
    elif not found.rows:
        yield f"None of these decisions has an embedding of {found.embedding_model}."
    if found.lacking:
        yield f"{found.lacking:,} decisions wait for their embedding, and were not compared."
    elif not found.embedded:
        yield "tracker-daemon embed --backfill gives one to those that were stored without."
    if found.left_out:
        yield f"{found.left_out:,} embeddings are not indexed yet, and were not looked at."
    if found.words_looked_at:
        yield f"Very many decisions hold the words: the latest {found.words_looked_at:,} were looked at."
    if found.words_left_out:
        yield f"{found.words_left_out:,} texts are not indexed yet, and were not looked at for the words."
