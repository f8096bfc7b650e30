// LayerNorm, a warp for each row (ops/ivit_layernorm/SPEC.md and those of the other methods).
#include "ops/fqvit_layernorm/kernel.h"
#include "ops/ibert_layernorm/kernel.h"
#include "ops/ivit_layernorm/kernel.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

enum class Method { ivit, ibert, fqvit };

struct Job {
  int64_t rows, columns;
  Integers q;
  const int64_t* bq;
  const int32_t *m, *e;  // fqvit: mant, none
  int64_t shift;         // ibert; fqvit: p
  Codes y;
};

MNQ_DEVICE void normalize(const Job& job, int64_t first, Method method, int64_t sum) {
  const int64_t mean = round_half_even_divide(sum, job.columns);
  const int64_t shift = method == Method::ibert ? job.shift : 0;
  int64_t variance = 0;
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    const int64_t d = (read(job.q, first + j) - mean) >> shift;
    variance += d * d;
  }
  variance = warp_sum(variance);
  const int64_t factor = method == Method::ivit ? ivit_layernorm_factor(variance)
                                                : ibert_layernorm_factor(variance, shift);
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    const int64_t d = read(job.q, first + j) - mean;
    write(job.y, first + j,
          layernorm_code(d, factor, job.bq[j], job.m[j], job.e[j], job.y.lo, job.y.hi));
  }
}

MNQ_DEVICE void normalize_fqvit(const Job& job, int64_t first, int64_t sum) {
  int64_t squares = 0;
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    const int64_t q = read(job.q, first + j);
    squares += q * q;
  }
  const FqVitRow row = fqvit_layernorm_row(sum, warp_sum(squares), job.columns, job.shift);
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    write(job.y, first + j,
          fqvit_layernorm_raw(read(job.q, first + j), row, job.columns, job.m[j], job.bq[j]));
  }
}

template <Method method>
MNQ_KERNEL layernorm_kernel(Job job) {
  const int64_t row = own_row(), first = row * job.columns;
  if (row >= job.rows) return;
  int64_t sum = 0;
  for (int64_t j = lane(); j < job.columns; j += warp_size) sum += read(job.q, first + j);
  sum = warp_sum(sum);
  if (method == Method::fqvit) {
    normalize_fqvit(job, first, sum);
  } else {
    normalize(job, first, method, sum);
  }
}

template <Method method>
class DeviceLayerNorm : public DeviceKernel {
 public:
  DeviceLayerNorm(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)),
        codes_(codes_of(node)),
        bq_(node["bq"]),
        m_(node[method == Method::fqvit ? "mant" : "m"]) {
    if (method == Method::fqvit) shift_ = node.scalar("p");
    if (method == Method::ibert) shift_ = node.scalar("shift");
    if (method != Method::fqvit) e_ = DeviceArray<int32_t>(node["e"]);
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    const int64_t columns = shape.back(), rows = count(shape) / columns;
    if (rows == 0) return;
    const Job job{rows, columns, {inputs[0].data, inputs[0].type}, bq_.data(), m_.data(),
                  e_.data(), shift_, at(codes_, output)};
    launch(layernorm_kernel<method>, by_row(rows), context.stream(), job);
  }

 private:
  Codes codes_;
  int64_t shift_ = 0;
  DeviceArray<int64_t> bq_;
  DeviceArray<int32_t> m_, e_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_ivit_layernorm(const Node& node,
                                                   std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLayerNorm<Method::ivit>>(node, std::move(contract));
}

std::unique_ptr<Kernel> make_device_ibert_layernorm(const Node& node,
                                                    std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLayerNorm<Method::ibert>>(node, std::move(contract));
}

std::unique_ptr<Kernel> make_device_fqvit_layernorm(const Node& node,
                                                    std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLayerNorm<Method::fqvit>>(node, std::move(contract));
}

}  // namespace mnq
