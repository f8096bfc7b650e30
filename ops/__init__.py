"""Operators of the domain `mnq`: their integers, ONNX functions and native kernels."""

from mnq.ops.library import library_path

__all__ = ["library_path"]
