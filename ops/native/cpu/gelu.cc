// Inputs have 8 bits: whatever a method computes, it is a table here, made when a session starts.
#include "ops/native/cpu/gelu.h"

#include <algorithm>

#include "ops/ibert_gelu/kernel.h"
#include "ops/ivit_gelu/kernel.h"
#include "ops/lut_gelu/kernel.h"
#include "ops/native/cpu/buffer.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t codes = 256;
constexpr int64_t task_elements = 1 << 15;

// Codes of type `to` for q = -128..127, one table of 256 after the other.
class Tables {
 public:
  Tables() = default;
  Tables(Type to, int64_t tables) : to_(to) {
    require_codes(to);
    if (to == Type::int8) {
      bytes_ = Buffer<int8_t>(tables * codes);
    } else {
      words_ = Buffer<int16_t>(tables * codes);
    }
  }

  void set(int64_t table, int64_t q, int64_t code) {
    const int64_t at = table * codes + q + 128;
    if (to_ == Type::int8) {
      bytes_[at] = static_cast<int8_t>(code);
    } else {
      words_[at] = static_cast<int16_t>(code);
    }
  }

  // Elements [first, first + n) of x and y through one table.
  void look_up(const Path& path, int64_t table, const int8_t* x, void* y, int64_t first,
               int64_t n) const {
    x += first;
    if (to_ == Type::int8) {
      path.look_up(bytes_.data() + table * codes, x, static_cast<int8_t*>(y) + first, n);
      return;
    }
    const int16_t* from = words_.data() + table * codes + 128;
    int16_t* to = static_cast<int16_t*>(y) + first;
    for (int64_t i = 0; i < n; ++i) to[i] = from[x[i]];
  }

 private:
  Type to_ = Type::int8;
  Buffer<int8_t> bytes_;
  Buffer<int16_t> words_;
};

class ElementwiseGelu : public Kernel {
 public:
  // Takes a function from q to its code.
  template <class F>
  ElementwiseGelu(const Node& node, const Path& path, F&& code)
      : path_(path), table_(node.to, 1) {
    node.activation("q", {Type::int8});
    for (int64_t q = -128; q < 128; ++q) table_.set(0, q, code(q));
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override { return inputs[0]; }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const int8_t* q = inputs[0].as<int8_t>();
    const int64_t all = count(inputs[0].shape);
    context.parallel((all + task_elements - 1) / task_elements, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * task_elements;
      table_.look_up(path_, 0, q, output, first, std::min(task_elements, all - first));
    });
  }

 private:
  const Path& path_;
  Tables table_;
};

// A function of a code and its row's maximum: a table for every maximum.
class IVitGeluKernel : public Kernel {
 public:
  IVitGeluKernel(const Node& node, const Path& path) : path_(path), tables_(node.to, codes) {
    node.activation("q", {Type::int8});
    const Limits limits(node);
    const IVitGelu a{node.scalar_within("x0", -65535, -1), node.scalar("numerator", Type::int64),
                     node.scalar("m"), node.scalar_within("e", 1, 62), limits.lo, limits.hi};
    if (a.numerator < 0 || a.numerator > int64_t{1} << 31) {
      throw Refusal("input 'numerator': expected a number from 0 to 2^31, found " +
                    std::to_string(a.numerator));
    }
    int64_t behind[codes];  // e1 by distance to the maximum
    for (int64_t t = 0; t < codes; ++t) behind[t] = shift_exp(-t, a.x0, ivit_gelu_n);
    for (int64_t top = -128; top < 128; ++top) {
      const int64_t zero = shift_exp(-top, a.x0, ivit_gelu_n);
      for (int64_t q = -128; q <= top; ++q) {
        tables_.set(top + 128, q, ivit_gelu_code(q, behind[top - q], zero, a));
      }
    }
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& q = inputs[0];
    if (q.empty() || q.back() == 0) {
      throw Refusal("input 'q': expected rows of at least one code, found shape " + text_of(q));
    }
    return q;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& q = inputs[0];
    const int64_t columns = q.shape.back(), rows = count(q.shape) / columns;
    const int64_t step = std::max<int64_t>(1, task_elements / columns);
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      for (int64_t row = first; row < std::min(first + step, rows); ++row) {
        const int top = path_.row_max(q.as<int8_t>() + row * columns, columns);
        tables_.look_up(path_, top + 128, q.as<int8_t>(), output, row * columns, columns);
      }
    });
  }

 private:
  const Path& path_;
  Tables tables_;
};

}  // namespace

std::unique_ptr<Kernel> make_ivit_gelu(const Node& node, const Path& path) {
  return std::make_unique<IVitGeluKernel>(node, path);
}

std::unique_ptr<Kernel> make_ibert_gelu(const Node& node, const Path& path) {
  const Limits limits(node);
  const IBertGelu a{node.scalar("b"), node.scalar("c"), node.scalar_within("n", 0, 62),
                    node.scalar("one"), node.scalar("m"), node.scalar_within("e", 1, 62),
                    limits.lo, limits.hi};
  return std::make_unique<ElementwiseGelu>(node, path,
                                           [&](int64_t q) { return ibert_gelu(q, a); });
}

std::unique_ptr<Kernel> make_lut_gelu(const Node& node, const Path& path) {
  const int8_t* table = node.vector("table", Type::int8, codes).as<int8_t>();
  return std::make_unique<ElementwiseGelu>(node, path,
                                           [&](int64_t q) { return lut_gelu(q, table); });
}

}  // namespace mnq
