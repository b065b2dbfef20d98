"""How events reach clients. A new transport is one file with `routes(live)` and its name in TRANSPORTS."""

from streaming.transports import polling, socketio, sse

TRANSPORTS = (polling, sse, socketio)
