"""The model in other people's formats: ONNX, Hugging Face diffusers, and a runner without torch."""
