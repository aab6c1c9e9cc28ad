"""Takes over a table `llm_decisions` that someone else made, with every row."""

from tracker_daemon.adoption.takeover import Adopted, adopt
from tracker_daemon.adoption.words import parse_word

__all__ = ["Adopted", "adopt", "parse_word"]
