"""Model endpoints: clients of NIM and OpenAI-style servers, and the embedded model server that speaks the same formats.

`client` and `tokens` never import torch, so commands start fast. Modules that need torch are in `server`.
"""
