// Softmax on its own, a warp for each row (ops/ivit_softmax/SPEC.md and those of the other methods).
#include "ops/fqvit_softmax/kernel.h"
#include "ops/ibert_softmax/kernel.h"
#include "ops/ivit_softmax/kernel.h"
#include "ops/native/cpu/exponentials.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

struct Job {
  int64_t rows, columns, rows_per_head, heads;
  const int8_t* q;
  const int64_t* exps;
  int64_t shift, zp;
  Codes y;
};

template <SoftmaxMethod method>
MNQ_DEVICE int64_t factor_of(int64_t sum) {
  if (method == SoftmaxMethod::fqvit) return sum;
  return method == SoftmaxMethod::ivit ? ivit_softmax_factor(sum) : softmax_factor(sum);
}

template <SoftmaxMethod method>
MNQ_DEVICE int64_t code_of(int64_t e, int64_t factor, const Job& job) {
  if (method == SoftmaxMethod::fqvit) return fqvit_softmax_code(negative_log2(factor, e));
  return method == SoftmaxMethod::ivit ? ivit_softmax_code(e, factor, job.shift)
                                       : softmax_code(e, factor, job.shift, job.zp);
}

template <SoftmaxMethod method>
MNQ_KERNEL softmax_kernel(Job job) {
  const int64_t row = own_row(), first = row * job.columns;
  if (row >= job.rows) return;
  int top = -128;
  for (int64_t i = lane(); i < job.columns; i += warp_size) {
    top = job.q[first + i] > top ? job.q[first + i] : top;
  }
  const int64_t head = row / job.rows_per_head % job.heads;
  const int64_t* at_top = job.exps + head * Exponentials::scores + warp_max(top);
  int64_t sum = 0;
  for (int64_t i = lane(); i < job.columns; i += warp_size) sum += at_top[-job.q[first + i]];
  const int64_t factor = factor_of<method>(warp_sum(sum));
  for (int64_t i = lane(); i < job.columns; i += warp_size) {
    write(job.y, first + i, code_of<method>(at_top[-job.q[first + i]], factor, job));
  }
}

template <SoftmaxMethod method>
class DeviceSoftmaxRows : public DeviceKernel {
 public:
  DeviceSoftmaxRows(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)), to_(node.to) {
    const Exponentials exps(node, method);
    heads_ = exps.heads();
    const auto size = static_cast<size_t>(heads_ * Exponentials::scores);
    exps_ = DeviceArray<int64_t>(exps.of(0), size, size);
    if (method != SoftmaxMethod::fqvit) shift_ = node.scalar("shift");
    if (method == SoftmaxMethod::ibert || method == SoftmaxMethod::lut) zp_ = node.scalar("zp");
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    const int64_t columns = shape.back(), rows = count(shape) / columns;
    if (rows == 0) return;
    const int64_t rows_per_head = heads_ > 1 ? shape[shape.size() - 2] : 1;
    const Codes codes{output, to_, INT16_MIN, INT16_MAX};  // a code fits its type as it is
    const Job job{rows,         columns, rows_per_head, heads_, inputs[0].as<int8_t>(),
                  exps_.data(), shift_,  zp_,           codes};
    launch(softmax_kernel<method>, by_row(rows), context.stream(), job);
  }

 private:
  Type to_;
  int64_t heads_ = 1, shift_ = 0, zp_ = 0;
  DeviceArray<int64_t> exps_;
};

}  // namespace

template <SoftmaxMethod method>
std::unique_ptr<Kernel> make_device_softmax(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceSoftmaxRows<method>>(node, std::move(contract));
}

template MakeOnDevice make_device_softmax<SoftmaxMethod::ivit>;
template MakeOnDevice make_device_softmax<SoftmaxMethod::ibert>;
template MakeOnDevice make_device_softmax<SoftmaxMethod::fqvit>;
template MakeOnDevice make_device_softmax<SoftmaxMethod::lut>;

}  // namespace mnq
