"""The aia-v4-compatible server: for the demo, for tests, for people without a server."""
