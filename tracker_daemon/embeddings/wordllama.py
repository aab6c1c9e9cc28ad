"""The program that computes embeddings with WordLlama, for `local`: a process of its own, run as a file.

It imports nothing of this package, so that it needs no more memory than the model does. On stdin come
batches, each 4 bytes with its length (big-endian) and a JSON array of texts; on stdout go their vectors,
float32, one after the other. It ends with its stdin, so with the daemon, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path


def main(dimensions: int) -> None:
    """Answer batch after batch until stdin ends."""
    # They are sent to the whole group, and meant for the daemon: it may want some more vectors as it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(PermissionError):  # a sandbox may forbid it; then it is only less polite
        os.nice(19)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.basicConfig(level=logging.WARNING)  # before the import, which else would set it to INFO
    import wordllama  # type: ignore[import-untyped]  # noqa: PLC0415

    # Weights and tokenizer come with the package.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(dim=dimensions, cache_dir=folder, disable_download=True)
    while head := sys.stdin.buffer.read(4):
        texts = json.loads(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        # One at a time: beside a long text, short ones would be padded to its length.
        sys.stdout.buffer.write(model.embed(texts, batch_size=1).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
