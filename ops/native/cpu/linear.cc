#include "ops/native/cpu/linear.h"

#include <algorithm>

#include "ops/native/cpu/path.h"
#include "ops/native/cpu/product.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t table_size = 256;

// What follows a layer's sums and their requantization.
enum class After { nothing, residual, table };

class LinearKernel : public Kernel {
 public:
  LinearKernel(const Node& node, const Path& path, After after)
      : path_(path), residual_(after == After::residual), to_(node.to) {
    node.activation("x", {Type::int8});
    const Tensor& w = node.constant("w", Type::int8);
    if (w.shape.size() != 2 || count(w.shape) == 0) {
      throw Refusal("input 'w': expected shape (K, N), found " + text_of(w.shape));
    }
    k_ = w.shape[0];
    n_ = w.shape[1];
    const Tensor& bias = node.vector("bias", Type::int32, n_);
    scale_ = OwnedRescaling(node, "m", "e", 32);
    scale_.require_columns("m", n_);
    if (residual_) {
      const Tensor& r = node.activation("r", {Type::int16, Type::int8, Type::int32});
      residual_scale_ = OwnedRescaling(node, "m_r", "e_r", r.type == Type::int32 ? 32 : 16);
      residual_scale_.require_columns("m_r", n_);
    }
    if (to_ == Type::int8) {
      parts_ = std::make_unique<PartLimits>(node);
      if (!parts_->is_scalar() && parts_->shape() != Shape{n_}) {
        throw Refusal("input 'lo': expected one number or shape " + text_of({n_}) + ", found " +
                      text_of(parts_->shape()));
      }
      lo_ = parts_->least();
      hi_ = parts_->largest();
    } else {
      const Limits limits(node);
      lo_ = limits.lo;
      hi_ = limits.hi;
    }
    if (after == After::table) {
      const Tensor& table = node.vector("table", Type::int8, table_size);
      table_ = Buffer<int8_t>(table_size);
      std::copy_n(table.as<int8_t>(), table_size, table_.data());
    }
    weights_ = Packed(path, k_, n_);
    weights_.fill(w.as<int8_t>(), n_, 1);
    for (int64_t j = 0; j < n_; ++j) {  // wraps like the accumulator
      weights_.bias()[j] = static_cast<int32_t>(static_cast<uint32_t>(weights_.bias()[j]) +
                                                static_cast<uint32_t>(bias.as<int32_t>()[j]));
    }
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    Shape shape = inputs[0];
    if (shape.empty() || shape.back() != k_) {
      throw Refusal("input 'x': expected shape (..., " + std::to_string(k_) + "), found " +
                    text_of(shape));
    }
    shape.back() = n_;
    if (residual_ && inputs[1] != shape) {
      throw Refusal("input 'r': expected shape " + text_of(shape) + ", found " +
                    text_of(inputs[1]));
    }
    return shape;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const int64_t rows = count(inputs[0].shape) / k_;
    LinearJob job{};
    RequantizeJob& finish = job.finish;
    finish.y = output;
    finish.y_type = to_;
    finish.y_stride = finish.r_stride = finish.columns = n_;
    finish.scale = scale_.at(0, !scale_.is_scalar());
    if (residual_) {
      finish.r = inputs[1].data;
      finish.r_type = inputs[1].type;
      finish.residual_scale = residual_scale_.at(0, !residual_scale_.is_scalar());
    }
    finish.lo = lo_;
    finish.hi = hi_;
    const bool limited = parts_ && !parts_->is_scalar();
    if (!limited) job.table = table_.data();
    weights_.multiply(inputs[0].as<int8_t>(), rows, job, context);
    if (limited) limit(static_cast<int8_t*>(output), rows, context);
  }

 private:
  // Columns to limits of their own, after those that all share; then through the table.
  void limit(int8_t* y, int64_t rows, Context& context) const {
    constexpr int64_t step = 64;
    const int8_t *lo = parts_->lows(), *hi = parts_->highs();
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      for (int64_t row = first; row < std::min(rows, first + step); ++row) {
        int8_t* codes = y + row * n_;
        for (int64_t j = 0; j < n_; ++j) codes[j] = std::min(std::max(codes[j], lo[j]), hi[j]);
        if (table_.data() != nullptr) path_.look_up(table_.data(), codes, codes, n_);
      }
    });
  }

  const Path& path_;
  bool residual_;
  Type to_;
  int64_t k_, n_;
  int32_t lo_, hi_;
  std::unique_ptr<PartLimits> parts_;  // of int8 codes
  OwnedRescaling scale_, residual_scale_;
  Buffer<int8_t> table_;
  Packed weights_;
};

}  // namespace

std::unique_ptr<Kernel> make_qlinear(const Node& node, const Path& path) {
  return std::make_unique<LinearKernel>(node, path, After::nothing);
}

std::unique_ptr<Kernel> make_qlinear_add(const Node& node, const Path& path) {
  return std::make_unique<LinearKernel>(node, path, After::residual);
}

std::unique_ptr<Kernel> make_qlinear_lut(const Node& node, const Path& path) {
  return std::make_unique<LinearKernel>(node, path, After::table);
}

}  // namespace mnq
