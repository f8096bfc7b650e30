// Scores have 8 bits: exponentials come from a table by distance to the row's maximum, and a row
// computes a code for each of its different scores only.
#include "ops/native/cpu/softmax.h"

#include <algorithm>

#include "ops/fqvit_softmax/kernel.h"
#include "ops/ibert_softmax/kernel.h"
#include "ops/ivit_softmax/kernel.h"
#include "ops/native/cpu/exponentials.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/per_head.h"
#include "ops/native/cpu/rescaling.h"

namespace mnq {
namespace {

constexpr int64_t scores = Exponentials::scores;
constexpr int64_t task_elements = 1 << 12;

int64_t shift_of(const Node& node) { return PerHead::within("shift", node.scalar("shift"), 0, 62); }

// A method: `factor` once for a row's sum of exponentials, `code` of one of them.

struct IVit {
  explicit IVit(const Node& node) : shift(shift_of(node)) {}
  int64_t factor(int64_t sum) const { return ivit_softmax_factor(sum); }
  int64_t code(int64_t e, int64_t factor) const { return ivit_softmax_code(e, factor, shift); }

  int64_t shift;
};

struct IBertOrLut {
  explicit IBertOrLut(const Node& node) : shift(shift_of(node)), zp(node.scalar("zp")) {}
  int64_t factor(int64_t sum) const { return softmax_factor(sum); }
  int64_t code(int64_t u, int64_t factor) const { return softmax_code(u, factor, shift, zp); }

  int64_t shift, zp;
};

struct FqVit {
  explicit FqVit(const Node&) {}
  int64_t factor(int64_t sum) const { return sum; }
  int64_t code(int64_t x, int64_t sum) const { return fqvit_softmax_code(negative_log2(sum, x)); }
};

template <class Method>
class SoftmaxKernel : public Kernel {
 public:
  SoftmaxKernel(const Node& node, const Path& path, SoftmaxMethod method)
      : path_(path), to_(node.to), method_(node), exps_(node, method) {
    node.activation("q", {Type::int8});
    require_codes(to_);
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& q = inputs[0];
    const size_t rank = q.size();
    if (q.empty() || q.back() == 0) {
      throw Refusal("input 'q': expected rows of at least one code, found shape " + text_of(q));
    }
    const int64_t heads = exps_.heads(), longest = INT64_MAX / exps_.largest();
    if (heads > 1 && (rank < 3 || q[rank - 3] != heads)) {
      throw Refusal("input 'q': expected " + std::to_string(heads) +
                    " heads on the third axis from the end, found shape " + text_of(q));
    }
    if (q.back() > longest) {
      throw Refusal("input 'q': expected rows of at most " + std::to_string(longest) +
                    " codes, whose exponentials add up below 2^63, found shape " + text_of(q));
    }
    return q;
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& q = inputs[0];
    const int64_t columns = q.shape.back(), rows = count(q.shape) / columns;
    const int64_t rows_per_head = exps_.heads() > 1 ? q.shape[q.shape.size() - 2] : 1;
    const int64_t step = std::max<int64_t>(1, task_elements / columns);
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      for (int64_t row = first; row < std::min(first + step, rows); ++row) {
        const int64_t* exps = exps_.of(row / rows_per_head % exps_.heads());
        const int8_t* from = q.as<int8_t>() + row * columns;
        if (to_ == Type::int8) {
          int8_t codes[scores];
          find_codes(from, columns, exps, codes);
          path_.look_up(codes, from, static_cast<int8_t*>(output) + row * columns, columns);
        } else {
          int16_t codes[scores];
          find_codes(from, columns, exps, codes);
          int16_t* to = static_cast<int16_t*>(output) + row * columns;
          for (int64_t i = 0; i < columns; ++i) to[i] = codes[from[i] + 128];
        }
      }
    });
  }

 private:
  // codes[q + 128] for every q of a row.
  template <class Y>
  void find_codes(const int8_t* q, int64_t columns, const int64_t* exps, Y* codes) const {
    bool seen[scores] = {};
    int different[scores + 1];
    int count = 0;
    const int64_t* at_top = exps + path_.row_max(q, columns);
    int64_t sum = 0;
    for (int64_t i = 0; i < columns; ++i) {  // without branches: no one could predict them
      const int score = q[i];
      sum += at_top[-score];
      different[count] = score;  // kept if the score is new
      count += !seen[score + 128];
      seen[score + 128] = true;
    }
    const int64_t factor = method_.factor(sum);
    for (int i = 0; i < count; ++i) {
      const int score = different[i];
      codes[score + 128] = static_cast<Y>(method_.code(at_top[-score], factor));
    }
  }

  const Path& path_;
  Type to_;
  Method method_;
  Exponentials exps_;
};

}  // namespace

std::unique_ptr<Kernel> make_ivit_softmax(const Node& node, const Path& path) {
  return std::make_unique<SoftmaxKernel<IVit>>(node, path, SoftmaxMethod::ivit);
}

std::unique_ptr<Kernel> make_ibert_softmax(const Node& node, const Path& path) {
  return std::make_unique<SoftmaxKernel<IBertOrLut>>(node, path, SoftmaxMethod::ibert);
}

std::unique_ptr<Kernel> make_fqvit_softmax(const Node& node, const Path& path) {
  return std::make_unique<SoftmaxKernel<FqVit>>(node, path, SoftmaxMethod::fqvit);
}

std::unique_ptr<Kernel> make_lut_softmax(const Node& node, const Path& path) {
  return std::make_unique<SoftmaxKernel<IBertOrLut>>(node, path, SoftmaxMethod::lut);
}

}  // namespace mnq
