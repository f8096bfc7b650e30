#include "ops/native/cpu/broadcast.h"

namespace mnq {

RowBroadcast::RowBroadcast(const char* name, const Shape& operand, const Shape& shape)
    : per_column_(false), same_row_(true), plain_(operand == shape) {
  const size_t rank = shape.size(), missing = rank - operand.size();
  bool fits = operand.size() <= rank;
  for (size_t i = 0; fits && i < operand.size(); ++i) {
    fits = operand[i] == 1 || operand[i] == shape[i + missing];
  }
  if (!fits) {
    throw Refusal(std::string("input '") + name + "': expected a shape that broadcasts to " +
                  text_of(shape) + ", found " + text_of(operand));
  }
  if (rank == 0) return;
  lengths_.assign(shape.begin(), shape.end() - 1);
  strides_.assign(rank - 1, 0);
  int64_t stride = 1;
  for (size_t i = operand.size(); i-- > 0;) {
    const size_t axis = i + missing;
    if (operand[i] != 1) {
      if (axis + 1 == rank) {
        per_column_ = true;
      } else {
        strides_[axis] = stride;
        same_row_ = false;
      }
    }
    stride *= operand[i];
  }
}

int64_t RowBroadcast::offset(int64_t row) const {
  int64_t result = 0;
  for (size_t axis = lengths_.size(); axis-- > 0;) {
    result += row % lengths_[axis] * strides_[axis];
    row /= lengths_[axis];
  }
  return result;
}

}  // namespace mnq
