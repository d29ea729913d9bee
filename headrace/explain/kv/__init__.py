"""The KV cache explained before it is bought: replays of request traces, and configuration of inference engines."""
