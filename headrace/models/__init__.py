"""What answers: clients of NIM and OpenAI-style endpoints, and the embedded model server that speaks the same formats.

`client` and `tokens` start fast: they never import torch. Everything that does is in `server`.
"""
