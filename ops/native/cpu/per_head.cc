#include "ops/native/cpu/per_head.h"

namespace mnq {

PerHead::PerHead(const Node& node, const char* name, int64_t lo, int64_t hi)
    : data_(node.constant(name, Type::int32)) {
  const Shape& shape = data_.shape;
  const int64_t all = heads();
  const size_t rank = shape.size();
  if (all < 1 || (all > 1 && (rank < 3 || shape[rank - 3] != all))) {
    throw Refusal(std::string("input '") + name +
                  "': expected one number or one per head, shape (H, 1, 1), found " +
                  text_of(shape));
  }
  for (int64_t head = 0; head < all; ++head) within(name, (*this)[head], lo, hi);
}

int64_t PerHead::within(const char* name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return value;
  throw Refusal(std::string("input '") + name + "': expected numbers from " + std::to_string(lo) +
                " to " + std::to_string(hi) + ", found " + std::to_string(value));
}

int64_t common_heads(std::initializer_list<const PerHead*> constants) {
  int64_t heads = 1;
  for (const PerHead* each : constants) {
    if (each->heads() == 1) continue;
    if (heads != 1 && heads != each->heads()) {
      throw Refusal("softmax constants: expected the same number of heads in all, found " +
                    std::to_string(heads) + " and " + std::to_string(each->heads()));
    }
    heads = each->heads();
  }
  return heads;
}

}  // namespace mnq
