"""The embedded model server: NIM and OpenAI-style endpoints in front of three models."""
