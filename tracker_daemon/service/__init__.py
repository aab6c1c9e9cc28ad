"""Questions over NATS, for agents without a login to the database: request, reply, and who is there."""

from tracker_daemon.service.service import QueryService

__all__ = ["QueryService"]
