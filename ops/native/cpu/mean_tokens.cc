#include "ops/native/cpu/mean_tokens.h"

#include <algorithm>

#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t task_elements = 1 << 14;
constexpr int64_t most_tokens = 1 << 16;  // sums of 16-bit codes fit 32 bits

class MeanTokensKernel : public Kernel {
 public:
  MeanTokensKernel(const Node& node, const Path& path)
      : path_(path), to_(node.to), limits_(node), scale_(node, "m", "e", 32) {
    node.activation("q", {Type::int8, Type::int16});
    require_codes(to_);
    node.scalar("m");
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& q = inputs[0];
    if (q.size() != 3 || q[1] > most_tokens) {
      throw Refusal("input 'q': expected shape (B, T, C) with at most " +
                    std::to_string(most_tokens) + " tokens T, found " + text_of(q));
    }
    return {q[0], q[2]};
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& q = inputs[0];
    const int64_t tokens = q.shape[1], columns = q.shape[2];
    if (q.shape[0] * columns == 0) return;
    // A task is some channels of an image, in whole cache lines of 8-bit codes.
    const int64_t step = round_up(task_elements / std::max<int64_t>(1, tokens) + 1, cache_line);
    const int64_t tasks = (columns + step - 1) / step;
    context.parallel(q.shape[0] * tasks, [&](size_t task) {
      const int64_t image = static_cast<int64_t>(task) / tasks;
      const int64_t first = static_cast<int64_t>(task) % tasks * step;
      RequantizeJob job{};
      job.z = q.as<char>() +
              (image * tokens * columns + first) * static_cast<int64_t>(size_of(q.type));
      job.z_type = q.type;
      job.z_stride = columns;
      job.y = static_cast<char*>(output) +
              (image * columns + first) * static_cast<int64_t>(size_of(to_));
      job.y_type = to_;
      job.y_stride = columns;
      job.rows = tokens;
      job.columns = std::min(step, columns - first);
      job.scale = scale_.at(0, false);
      job.lo = limits_.lo;
      job.hi = limits_.hi;
      path_.sum_rows(job);
    });
  }

 private:
  const Path& path_;
  Type to_;
  Limits limits_;
  OwnedRescaling scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_mean_tokens(const Node& node, const Path& path) {
  return std::make_unique<MeanTokensKernel>(node, path);
}

}  // namespace mnq
