#include "ops/native/cpu/layernorm.h"

#include <algorithm>
#include <cmath>

#include "ops/native/cpu/buffer.h"
#include "ops/native/cpu/layernorm_job.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t task_elements = 1 << 13;
constexpr int64_t padding = 16;  // columns that inner loops may read behind the last one

[[noreturn]] void refuse(const char* input, const std::string& expected, int64_t found) {
  throw Refusal(std::string("input '") + input + "': expected " + expected + ", found " +
                std::to_string(found));
}

int64_t length_of(const Node& node) {
  const Shape& shape = node.constant("bq", Type::int64).shape;
  if (shape.size() == 1 && shape[0] > 0) return shape[0];
  throw Refusal("input 'bq': expected one number per channel, shape (C,), found " +
                text_of(shape));
}

template <class T>
Buffer<T> copied(const Tensor& tensor, int64_t columns) {
  Buffer<T> buffer(columns + padding);
  std::copy_n(tensor.as<T>(), columns, buffer.data());
  return buffer;
}

// The constants in the forms of the inner loops.
class Constants {
 public:
  Constants(const Node& node, LayerNormMethod method)
      : columns_(length_of(node)), limits_(node), method_(method) {
    const bool bytes = node.activation("q", {Type::int16, Type::int8}).type == Type::int8;
    const bool fqvit = method == LayerNormMethod::fqvit;
    // Longer rows could leave int64 (FqVit), or doubles and int64 reductions (SPEC.md).
    const int64_t longest = !fqvit ? (1 << 21) - 1 : bytes ? 1 << 19 : 1 << 11;
    if (columns_ > longest) {
      refuse("bq", "at most " + std::to_string(longest) + " channels of " +
             name_of(node["q"].type) + " codes", columns_);
    }
    bq_ = copied<int64_t>(node.vector("bq", Type::int64, columns_), columns_);
    const char* multiplier = fqvit ? "mant" : "m";
    m_ = copied<int32_t>(node.vector(multiplier, Type::int32, columns_), columns_);
    if (fqvit) {
      shift_ = static_cast<int32_t>(node.scalar_within("p", -31, 60));
      make_floats();
    } else {
      if (method == LayerNormMethod::ibert) {
        shift_ = static_cast<int32_t>(node.scalar_within("shift", 0, 31));
      }
      e_ = copied<int32_t>(node.vector("e", Type::int32, columns_), columns_);
      make_narrow();
    }
  }

  int64_t columns() const { return columns_; }

  LayerNormConstants view() const {
    LayerNormConstants c{};
    c.method = method_;
    c.columns = columns_;
    c.lo = limits_.lo;
    c.hi = limits_.hi;
    c.wide = wide_.data();
    c.wide_count = static_cast<int64_t>(wide_.size());
    c.bq = bq_.data();
    c.m = m_.data();
    c.e = e_.data();
    c.shift = shift_;
    c.narrow_bq = narrow_bq_.data();
    c.odd_m = odd_m_.data();
    c.half = half_.data();
    c.high_shift = high_shift_.data();
    c.slope = slope_.data();
    c.bias = bias_.data();
    c.largest_slope = largest_slope_;
    c.largest_bias = largest_bias_;
    return c;
  }

 private:
  void make_narrow() {
    for (Buffer<int32_t>* each : {&narrow_bq_, &odd_m_, &half_, &high_shift_}) {
      *each = Buffer<int32_t>(columns_ + padding);
    }
    std::copy_n(m_.data() + 1, columns_, odd_m_.data());
    const int64_t room = (int64_t{1} << 30) - 1;  // beside abs(d * F) >> 1 <= 2^30
    for (int64_t j = 0; j < columns_; ++j) {
      const int32_t e = e_[j];
      if (e < 1 || e > 62) refuse("e", "shifts from 1 to 62", e);
      if (bq_[j] < -room || bq_[j] > room || e < 33) {
        wide_.push_back(static_cast<int32_t>(j));
        continue;
      }
      narrow_bq_[j] = static_cast<int32_t>(bq_[j]);
      half_[j] = 1 << (e - 33);
      high_shift_[j] = e - 32;
    }
  }

  void make_floats() {
    slope_ = Buffer<float>(columns_ + padding);
    bias_ = Buffer<float>(columns_ + padding);
    std::fill_n(slope_.data(), columns_ + padding, std::ldexp(1.0F, -20));
    for (int64_t j = 0; j < columns_; ++j) {
      const double bias = std::ldexp(static_cast<double>(bq_[j]), -20);
      if (std::abs(bias) >= 4096) {
        wide_.push_back(static_cast<int32_t>(j));
        continue;
      }
      if (m_[j] != 0) slope_[j] = static_cast<float>(m_[j]);
      bias_[j] = static_cast<float>(std::ldexp(bias, 16));
      largest_slope_ = std::max(largest_slope_, std::abs(slope_[j]));
      largest_bias_ = std::max(largest_bias_, static_cast<float>(std::abs(bias)));
    }
    largest_slope_ = std::max(largest_slope_, slope_[columns_]);
  }

  int64_t columns_;
  Limits limits_;
  LayerNormMethod method_;
  int32_t shift_ = 0;
  std::vector<int32_t> wide_;
  Buffer<int64_t> bq_;
  Buffer<int32_t> m_, e_, narrow_bq_, odd_m_, half_, high_shift_;
  Buffer<float> slope_, bias_;
  float largest_slope_ = 0, largest_bias_ = 0;
};

class LayerNormKernel : public Kernel {
 public:
  LayerNormKernel(const Node& node, const Path& path, LayerNormMethod method)
      : path_(path), to_(node.to), constants_(node, method), view_(constants_.view()) {
    require_codes(to_);
    const Shape& q = node["q"].shape;
    if (!q.empty() && q.back() >= 0) require_columns(q);
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    require_columns(inputs[0]);
    return inputs[0];
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& q = inputs[0];
    const int64_t columns = constants_.columns(), rows = count(q.shape) / columns;
    const int64_t step = round_up(std::max<int64_t>(1, task_elements / columns), 16);
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      LayerNormJob job{};
      job.q = q.as<char>() + first * columns * static_cast<int64_t>(size_of(q.type));
      job.q_type = q.type;
      job.y = static_cast<char*>(output) + first * columns * static_cast<int64_t>(size_of(to_));
      job.y_type = to_;
      job.rows = std::min(step, rows - first);
      job.constants = &view_;
      path_.layernorm(job);
    });
  }

 private:
  void require_columns(const Shape& q) const {
    if (!q.empty() && q.back() == constants_.columns()) return;
    throw Refusal("input 'q': expected rows of " + std::to_string(constants_.columns()) +
                  " as in 'bq', found shape " + text_of(q));
  }

  const Path& path_;
  Type to_;
  Constants constants_;
  LayerNormConstants view_;
};

}  // namespace

std::unique_ptr<Kernel> make_ivit_layernorm(const Node& node, const Path& path) {
  return std::make_unique<LayerNormKernel>(node, path, LayerNormMethod::ivit);
}

std::unique_ptr<Kernel> make_ibert_layernorm(const Node& node, const Path& path) {
  return std::make_unique<LayerNormKernel>(node, path, LayerNormMethod::ibert);
}

std::unique_ptr<Kernel> make_fqvit_layernorm(const Node& node, const Path& path) {
  return std::make_unique<LayerNormKernel>(node, path, LayerNormMethod::fqvit);
}

}  // namespace mnq
