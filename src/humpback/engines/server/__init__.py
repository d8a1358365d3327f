"""The `server` engine: any OpenAI-compatible endpoint. `engine.py` is the file to read first."""
