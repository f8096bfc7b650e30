#include "ops/native/cpu/qmatmul.h"

#include "ops/native/cpu/broadcast.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/product.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

// A product inside one task, which may not start tasks of its own.
class Alone : public Context {
 private:
  void run_parallel(void (*task)(void*, size_t), size_t total, void* user) override {
    for (size_t i = 0; i < total; ++i) task(user, i);
  }
  void* allocate(size_t bytes) override {
    memory_ = Buffer<char>(static_cast<int64_t>(bytes));
    return memory_.data();
  }
  Buffer<char> memory_;
};

class QMatMulKernel : public Kernel {
 public:
  QMatMulKernel(const Node& node, const Path& path)
      : path_(path), to_(node.to), limits_(node), scale_(node, "m", "e", 32) {
    node.activation("a", {Type::int8});
    node.activation("b", {Type::int8});
    node.activation("bias", {Type::int32});
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape &a = inputs[0], &b = inputs[1];
    const size_t rank = a.size();
    bool fits = rank >= 2 && b.size() == rank && a[rank - 1] == b[rank - 2];
    for (size_t i = 0; fits && i + 2 < rank; ++i) fits = a[i] == b[i];
    if (!fits) {
      throw Refusal("inputs 'a' and 'b': expected shapes (..., M, K) and (..., K, N), found " +
                    text_of(a) + " and " + text_of(b));
    }
    Shape shape = a;
    shape.back() = b.back();
    RowBroadcast("bias", inputs[2], shape);
    RowBroadcast("m", scale_.shape(), shape);
    return shape;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape shape = output_shape({inputs[0].shape, inputs[1].shape, inputs[2].shape});
    const int64_t n = shape.back(), rows = shape[shape.size() - 2], k = inputs[0].shape.back();
    if (count(shape) == 0) return;
    const RowBroadcast bias("bias", inputs[2].shape, shape), m("m", scale_.shape(), shape);
    context.parallel(count(shape) / (rows * n), [&](size_t batch) {
      const int64_t first = static_cast<int64_t>(batch) * rows;
      Packed b(path_, k, n);
      b.fill(inputs[1].as<int8_t>() + static_cast<int64_t>(batch) * k * n, n, 1);
      Buffer<int32_t> sums(rows * n + panel_columns);
      LinearJob product{};
      product.raw = true;
      product.finish.y = sums.data();
      product.finish.y_type = Type::int32;
      product.finish.y_stride = product.finish.columns = n;
      Alone alone;
      b.multiply(inputs[0].as<int8_t>() + first * k, rows, product, alone);
      for (int64_t i = 0; i < rows; ++i) {
        int32_t* row = sums.data() + i * n;
        const int32_t* add = inputs[2].as<int32_t>() + bias.offset(first + i);
        for (int64_t j = 0; j < n; ++j) {  // wraps like the accumulator
          row[j] = static_cast<int32_t>(static_cast<uint32_t>(row[j]) +
                                        static_cast<uint32_t>(add[bias.per_column() ? j : 0]));
        }
        RequantizeJob job{};
        job.z = row;
        job.z_type = Type::int32;
        job.y = static_cast<char*>(output) + (first + i) * n * size_of(to_);
        job.y_type = to_;
        job.z_stride = job.y_stride = job.columns = n;
        job.rows = 1;
        job.scale = scale_.at(m.offset(first + i), m.per_column());
        job.lo = limits_.lo;
        job.hi = limits_.hi;
        path_.requantize(job);
      }
    });
  }

 private:
  const Path& path_;
  Type to_;
  Limits limits_;
  OwnedRescaling scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_qmatmul(const Node& node, const Path& path) {
  return std::make_unique<QMatMulKernel>(node, path);
}

}  // namespace mnq
