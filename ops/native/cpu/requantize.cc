#include "ops/native/cpu/requantize.h"

#include <algorithm>
#include <optional>

#include "ops/native/cpu/broadcast.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t task_elements = 1 << 14;

int bits_of(const Tensor& tensor) { return tensor.type == Type::int32 ? 32 : 16; }

class RequantizeKernel : public Kernel {
 public:
  RequantizeKernel(const Node& node, const Path& path, bool residual)
      : path_(path), residual_(residual), to_(node.to), limits_(node) {
    const auto types = {Type::int32, Type::int16, Type::int8};
    scale_ = OwnedRescaling(node, "m", "e", bits_of(node.activation("z", types)));
    if (residual) {
      residual_scale_ = OwnedRescaling(node, "m_r", "e_r", bits_of(node.activation("r", types)));
    }
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& z = inputs[0];
    RowBroadcast("m", scale_.shape(), z);
    if (residual_) {
      RowBroadcast("m_r", residual_scale_.shape(), z);
      RowBroadcast r("r", inputs[1], z);
      if (!z.empty() && z.back() != 1 && !r.per_column()) {
        throw Refusal("input 'r': expected rows as long as those of 'z', found shape " +
                      text_of(inputs[1]) + " beside " + text_of(z));
      }
    }
    return z;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    const int64_t all = count(shape), columns = shape.empty() ? 1 : shape.back();
    if (all == 0) return;
    const RowBroadcast m("m", scale_.shape(), shape);
    std::optional<RowBroadcast> m_r, r;
    if (residual_) {
      m_r.emplace("m_r", residual_scale_.shape(), shape);
      r.emplace("r", inputs[1].shape, shape);
    }
    // Rows with the same constants, one after the other in memory, are one job.
    const bool together = m.same_row() && (!residual_ || (m_r->same_row() && r->plain()));
    const int64_t rows = all / columns, step = std::max<int64_t>(1, task_elements / columns);
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step, last = std::min(first + step, rows);
      for (int64_t row = first; row < last; row += together ? step : 1) {
        RequantizeJob job{};
        job.rows = together ? last - first : 1;
        job.columns = columns;
        job.z = inputs[0].as<char>() + row * columns * size_of(inputs[0].type);
        job.z_type = inputs[0].type;
        job.y = static_cast<char*>(output) + row * columns * size_of(to_);
        job.y_type = to_;
        job.z_stride = job.r_stride = job.y_stride = columns;
        job.scale = scale_.at(m.offset(row), m.per_column());
        if (residual_) {
          job.r = inputs[1].as<char>() + r->offset(row) * size_of(inputs[1].type);
          job.r_type = inputs[1].type;
          job.residual_scale = residual_scale_.at(m_r->offset(row), m_r->per_column());
        }
        job.lo = limits_.lo;
        job.hi = limits_.hi;
        path_.requantize(job);
      }
    });
  }

 private:
  const Path& path_;
  bool residual_;
  Type to_;
  Limits limits_;
  OwnedRescaling scale_, residual_scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_requantize(const Node& node, const Path& path) {
  return std::make_unique<RequantizeKernel>(node, path, false);
}

std::unique_ptr<Kernel> make_requantize_add(const Node& node, const Path& path) {
  return std::make_unique<RequantizeKernel>(node, path, true);
}

}  // namespace mnq
