#include "ops/native/cpu/l2_normalize.h"

#include <algorithm>

#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t task_elements = 1 << 14;
constexpr int64_t longest = (1 << 21) - 1;  // columns: the sum of their squares is below 2^35

class L2NormalizeKernel : public Kernel {
 public:
  L2NormalizeKernel(const Node& node, const Path& path)
      : path_(path), to_(node.to), limits_(node), scale_(node, "m", "e", 32) {
    node.activation("q", {Type::int8});
    require_codes(to_);
    node.scalar("m");
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& q = inputs[0];
    if (q.empty() || q.back() > longest) {
      throw Refusal("input 'q': expected rows of at most " + std::to_string(longest) +
                    " codes, found shape " + text_of(q));
    }
    return q;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    const int64_t all = count(shape), columns = shape.back();
    if (all == 0) return;
    const int64_t rows = all / columns;
    const int64_t step = round_up(std::max<int64_t>(1, task_elements / columns), 32);
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      RequantizeJob job{};
      job.z = inputs[0].as<int8_t>() + first * columns;
      job.z_type = Type::int8;
      job.y = static_cast<char*>(output) + first * columns * static_cast<int64_t>(size_of(to_));
      job.y_type = to_;
      job.z_stride = job.y_stride = job.columns = columns;
      job.rows = std::min(step, rows - first);
      job.scale = scale_.at(0, false);
      job.lo = limits_.lo;
      job.hi = limits_.hi;
      path_.l2_normalize(job);
    });
  }

 private:
  const Path& path_;
  Type to_;
  Limits limits_;
  OwnedRescaling scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_l2_normalize(const Node& node, const Path& path) {
  return std::make_unique<L2NormalizeKernel>(node, path);
}

}  // namespace mnq
