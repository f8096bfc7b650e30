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
  bool whole;  // rows of `q` are whole fours of 16 bits
};

// Calls f(column, q) for this lane's share of a row: four columns side by side where all rows are
// whole fours of 16 bits.
template <class F>
MNQ_DEVICE void by_column(const Job& job, int64_t first, F&& f) {
  if (!job.whole) {
    for (int64_t j = lane(); j < job.columns; j += warp_size) f(j, read(job.q, first + j));
    return;
  }
  const auto* q = static_cast<const int16_t*>(job.q.data) + first;
  for (int64_t j = lane() * 4; j < job.columns; j += warp_size * 4) {
    const Halves four = *reinterpret_cast<const Halves*>(q + j);
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) f(j + c, static_cast<int64_t>(four.of[c]));
  }
}

// Writes f(column, q) for this lane's share of a row.
template <class F>
MNQ_DEVICE void write_row(const Job& job, int64_t first, F&& f) {
  if (!job.whole || job.y.type != Type::int8) {
    by_column(job, first, [&](int64_t j, int64_t q) { write(job.y, first + j, f(j, q)); });
    return;
  }
  uint32_t word = 0;
  by_column(job, first, [&](int64_t j, int64_t q) {
    const int64_t code = clamp(f(j, q), job.y.lo, job.y.hi);
    word = word >> 8 | static_cast<uint32_t>(code & 0xff) << 24;
    if (j % 4 == 3) {
      *reinterpret_cast<uint32_t*>(static_cast<int8_t*>(job.y.data) + first + j - 3) = word;
    }
  });
}

MNQ_DEVICE void normalize(const Job& job, int64_t first, Method method, int64_t sum) {
  const int64_t mean = round_half_even_divide(sum, job.columns);
  const int64_t shift = method == Method::ibert ? job.shift : 0;
  int64_t variance = 0;
  by_column(job, first, [&](int64_t, int64_t q) {
    const int64_t d = (q - mean) >> shift;
    variance += d * d;
  });
  variance = warp_sum(variance);
  const int64_t factor = method == Method::ivit ? ivit_layernorm_factor(variance)
                                                : ibert_layernorm_factor(variance, shift);
  write_row(job, first, [&](int64_t j, int64_t q) {
    return layernorm_code(q - mean, factor, job.bq[j], job.m[j], job.e[j], job.y.lo, job.y.hi);
  });
}

MNQ_DEVICE void normalize_fqvit(const Job& job, int64_t first, int64_t sum) {
  int64_t squares = 0;
  by_column(job, first, [&](int64_t, int64_t q) { squares += q * q; });
  const FqVitRow row = fqvit_layernorm_row(sum, warp_sum(squares), job.columns, job.shift);
  write_row(job, first, [&](int64_t j, int64_t q) {
    return fqvit_layernorm_raw(q, row, job.columns, job.m[j], job.bq[j]);
  });
}

template <Method method>
MNQ_KERNEL_OF(row_warps* warp_size) layernorm_kernel(Job job) {
  const int64_t row = own_row(), first = row * job.columns;
  if (row >= job.rows) return;
  int64_t sum = 0;
  by_column(job, first, [&](int64_t, int64_t q) { sum += q; });
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
    const bool whole = inputs[0].type == Type::int16 && columns % 4 == 0 &&
                       aligned(inputs[0].data) && aligned(output);
    const Job job{rows, columns, {inputs[0].data, inputs[0].type}, bq_.data(), m_.data(),
                  e_.data(), shift_, at(codes_, output), whole};
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
