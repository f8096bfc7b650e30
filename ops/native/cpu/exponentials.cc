#include "ops/native/cpu/exponentials.h"

#include <algorithm>

#include "ops/fqvit_softmax/kernel.h"
#include "ops/ibert_softmax/kernel.h"
#include "ops/ivit_softmax/kernel.h"
#include "ops/lut_softmax/kernel.h"
#include "ops/native/cpu/per_head.h"

namespace mnq {
namespace {

// Calls make(constants, value) with the method's constants and its function of head and distance.
template <class Make>
void with_values(const Node& node, SoftmaxMethod method, Make&& make) {
  if (method == SoftmaxMethod::ivit) {
    const PerHead x0(node, "x0", -65535, -1);
    return make({&x0}, [&](int64_t head, int64_t t) {
      return shift_exp(-t, x0[head], ivit_softmax_n);
    });
  }
  if (method == SoftmaxMethod::lut) {
    const Tensor& table = node.constant("table", Type::int32);
    const int64_t size = count(table.shape);
    if (table.shape.size() != 1 || size < Exponentials::scores) {
      throw Refusal("input 'table': expected 256 numbers per scale, shape (256 * scales,), found " +
                    text_of(table.shape));
    }
    const PerHead base(node, "base", 0, size - Exponentials::scores);
    return make({&base}, [&](int64_t head, int64_t t) {
      return lut_softmax_weight(table.as<int32_t>(), base[head], -t);
    });
  }
  const PerHead x0(node, "x0", INT32_MIN, -1), b(node, "b", INT32_MIN, INT32_MAX);
  if (method == SoftmaxMethod::fqvit) {
    const PerHead c(node, "c", 1, (1 << 23) - 1);
    return make({&x0, &b, &c}, [&](int64_t head, int64_t t) {
      return fqvit_exp(-t, x0[head], b[head], c[head]);
    });
  }
  const PerHead c(node, "c", 1, INT32_MAX);
  const PerHead m(node, "m_p", 0, INT32_MAX), e(node, "e_p", 1, 62);
  make({&x0, &b, &c, &m, &e}, [&](int64_t head, int64_t t) {
    return ibert_softmax_step(i_exp(-t, x0[head], b[head], c[head]), m[head], e[head]);
  });
}

}  // namespace

Exponentials::Exponentials(const Node& node, SoftmaxMethod method) {
  const auto make = [&](std::initializer_list<const PerHead*> constants, auto&& value) {
    heads_ = common_heads(constants);
    values_ = Buffer<int64_t>(heads_ * scores);
    for (int64_t i = 0; i < heads_ * scores; ++i) {
      const int64_t t = i % scores, e = value(i / scores, t);
      if (e < (t == 0 ? 1 : 0)) {
        throw Refusal("softmax constants: expected exponentials of 0 or more, exp(0) above 0, "
                      "found " + std::to_string(e) + " at distance " + std::to_string(t));
      }
      values_[i] = e;
      largest_ = std::max(largest_, e);
    }
  };
  with_values(node, method, make);
}

}  // namespace mnq
