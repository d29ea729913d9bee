"""The embedded model server: NIM and OpenAI-style endpoints for three models."""
