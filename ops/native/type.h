#pragma once

namespace mnq {

// Element types of tensors, by ONNX's numbers: what the attribute `to` holds.
enum class Type { uint8 = 2, int8 = 3, int16 = 5, int32 = 6, int64 = 7 };

}  // namespace mnq
