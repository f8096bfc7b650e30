#include "ops/native/cpu/rescaling.h"

#include <algorithm>

namespace mnq {

OwnedRescaling::OwnedRescaling(const Node& node, const char* m, const char* e, int operand_bits) {
  const Tensor &multiplier = node.constant(m, Type::int32), &shift = node.constant(e, Type::int32);
  shape_ = multiplier.shape;
  if (shift.shape != shape_) {
    throw Refusal(std::string("inputs '") + m + "' and '" + e + "': expected equal shapes, found " +
                  text_of(shape_) + " and " + text_of(shift.shape));
  }
  const int64_t size = count(shape_);
  m_ = Buffer<int32_t>(size + panel_columns);
  e_ = Buffer<int32_t>(size + panel_columns);
  std::copy_n(multiplier.as<int32_t>(), size, m_.data());
  std::copy_n(shift.as<int32_t>(), size, e_.data());
  std::fill_n(e_.data() + size, panel_columns, 33);  // of columns that are never stored
  int32_t least = 62;
  for (int64_t i = 0; i < size; ++i) {
    if (e_[i] < 1 || e_[i] > 62) {
      throw Refusal(std::string("input '") + e + "': expected shifts from 1 to 62, found " +
                    std::to_string(e_[i]));
    }
    least = std::min(least, e_[i]);
  }
  if (operand_bits <= 16 && least >= 17) {
    form_ = Form::narrow;
  } else if (least >= 33) {
    form_ = Form::high_word;
  }
}

void OwnedRescaling::require_columns(const char* m, int64_t columns) const {
  if (is_scalar() || shape_ == Shape{columns}) return;
  throw Refusal(std::string("input '") + m + "': expected one number or shape " +
                text_of({columns}) + ", found " + text_of(shape_));
}

Rescaling OwnedRescaling::at(int64_t offset, bool per_column) const {
  return {m_.data() + offset, e_.data() + offset, per_column, form_};
}

void require_codes(Type to) {
  if (to == Type::int8 || to == Type::int16) return;
  throw Refusal(std::string("attribute 'to': expected int8 or int16, found ") + name_of(to));
}

Limits::Limits(const Node& node, const char* lo, const char* hi)
    : Limits(node, node.to, lo, hi) {}

Limits::Limits(const Node& node, Type to, const char* lo_name, const char* hi_name)
    : lo(static_cast<int32_t>(node.scalar(lo_name))),
      hi(static_cast<int32_t>(node.scalar(hi_name))) {
  const int64_t top = (int64_t{1} << (8 * size_of(to) - 1)) - 1;
  if (lo > hi || lo < -top - 1 || hi > top) {
    throw Refusal(std::string("inputs '") + lo_name + "' and '" + hi_name +
                  "': expected an interval within " + name_of(to) + ", found " +
                  std::to_string(lo) + " and " + std::to_string(hi));
  }
}

PartLimits::PartLimits(const Node& node) {
  const Tensor &lo = node.constant("lo", Type::int32), &hi = node.constant("hi", Type::int32);
  shape_ = lo.shape;
  if (hi.shape != shape_ || count(shape_) == 0) {
    throw Refusal("inputs 'lo' and 'hi': expected equal shapes, found " + text_of(shape_) +
                  " and " + text_of(hi.shape));
  }
  for (int64_t part = 0; part < count(shape_); ++part) {
    const int32_t low = lo.as<int32_t>()[part], high = hi.as<int32_t>()[part];
    if (low > high || low < -128 || high > 127) {
      throw Refusal("inputs 'lo' and 'hi': expected intervals within int8, found " +
                    std::to_string(low) + " and " + std::to_string(high));
    }
    lo_.push_back(static_cast<int8_t>(low));
    hi_.push_back(static_cast<int8_t>(high));
  }
}

}  // namespace mnq
