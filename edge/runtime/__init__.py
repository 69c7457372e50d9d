"""asyncio around the core: it knows ports, never adapters."""
