"""The bundled model: a small vision transformer for scikit-learn's 8x8 digits.

It makes the whole way, from float weights to a proved .onnx, run in seconds and offline.
"""
