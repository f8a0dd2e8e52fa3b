"""Front: the API server before an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Front:
    """The API server before the engine: a fixed time per request, time per prompt token, and a queue of one server."""

    request_s: float = 0.0
    token_s: float = 0.0
    server_s: float = 0.0
    ready_s: float = 0.0  # before then nothing is served
    _free_s: float = 0.0

    def enter(self, arrival_s: float, tokens: int) -> float:
        """When a request of that many prompt tokens reaches the engine; calls come in order of arrival."""
        if self.server_s:
            self._free_s = max(self._free_s, arrival_s) + self.server_s
            arrival_s = self._free_s
        return max(self.ready_s, arrival_s + self.request_s + self.token_s * tokens)
