#include "ops/native/cpu/softmax_tables.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "ops/fqvit_softmax/kernel.h"
#include "ops/ibert_softmax/kernel.h"
#include "ops/ivit_softmax/kernel.h"
#include "ops/native/cpu/per_head.h"
#include "ops/requantize/kernel.h"

namespace mnq {
namespace {

constexpr int64_t never = INT64_MAX;
constexpr int log2_levels = 28;  // of rows shorter than 2^16: Lmin <= 17, and ten levels above

// A constant of attention has no axes before the heads.
PerHead per_head(const Node& node, const char* name, int64_t lo, int64_t hi) {
  const Shape& shape = node.constant(name, Type::int32).shape;
  if (count(shape) != 1 && shape.size() != 3) {
    throw Refusal(std::string("input '") + name +
                  "': expected one number or shape (H, 1, 1), found " + text_of(shape));
  }
  return {node, name, lo, hi};
}

// The smallest row sum for which an exponential has L >= level (ops/fqvit_softmax/SPEC.md, lines 4
// to 6): R >= k, where k is 2 for level 1, 3 for level 2, 6 for level 3, 12, ... R rounds
// half to even, so a half counts where k is even.
int64_t needed_sum(int64_t exp, int level) {
  if (level == 0 || exp == 0) return 0;  // the logarithm of 0 is 63, whatever the sum
  const __int128 k = level == 1 ? 2 : static_cast<__int128>(3) << (level - 2);
  const __int128 twice = (2 * k - 1) * exp;  // 2 * sum has to reach it
  const __int128 sum = k % 2 == 0 ? (twice + 1) / 2 : twice / 2 + 1;
  return sum > never ? never : static_cast<int64_t>(sum);
}

}  // namespace

struct HeadTables::Arrays {
  alignas(64) std::array<uint8_t, distances> weights{};
  std::array<uint32_t, distances> numerators{};
  std::array<int64_t, distances> exps{};
  std::vector<int64_t> needed;
  std::vector<uint8_t> exp_bytes;
  std::vector<Guess> guesses;

  // A value of the scalar core as a weight or a numerator. The nearest score has the largest.
  void set(int64_t t, int64_t value, bool deferred) {
    const int64_t largest = deferred ? 255 : UINT32_MAX;
    if (value < (t == 0 ? 1 : 0) || value > largest) {
      throw Refusal("softmax constants: expected weights from 0 to " + std::to_string(largest) +
                    ", the first above 0, found " + std::to_string(value) + " at distance " +
                    std::to_string(t));
    }
    (deferred ? weights[t] = static_cast<uint8_t>(value)
              : numerators[t] = static_cast<uint32_t>(value));
  }

  // What a row of exponentials needs besides them.
  void finish_exps() {
    const int64_t largest = *std::max_element(exps.begin(), exps.end());
    for (int64_t shift = 0; shift < bit_length(largest); shift += 8) {
      for (const int64_t exp : exps) exp_bytes.push_back(static_cast<uint8_t>(exp >> shift));
    }
    if (!std::is_sorted(exps.rbegin(), exps.rend())) return;
    needed.resize(static_cast<size_t>(log2_levels) * distances);
    for (int level = 0; level < log2_levels; ++level) {
      for (int64_t t = 0; t < distances; ++t) {
        needed[level * distances + t] = needed_sum(exps[t], level);
      }
    }
    const int64_t first = guess_number(exps[0]), octaves = log2_levels - deferred_levels - 2;
    for (int64_t number = first; number <= first + 16 * octaves; ++number) {
      const int64_t bits = number / 16, lead = 16 + number % 16;
      if (bits > 63) break;  // no sum is larger
      const int64_t smallest = bits > 5 ? lead << (bits - 5) : lead >> (5 - bits);
      const int64_t sum = most(smallest, exps[0]);  // no row's sum is less
      Guess guess{static_cast<int32_t>(negative_log2(sum, exps[0])), {}};
      for (int i = 0; i <= deferred_levels; ++i) {
        const auto row = needed.begin() + (guess.least + 1 + i) * distances;
        const auto reached = std::partition_point(row, row + distances,
                                                  [&](int64_t least_sum) { return least_sum > sum; });
        guess.cuts[i] = static_cast<uint16_t>(reached - row);
      }
      guesses.push_back(guess);
    }
  }
};

HeadTables::HeadTables(const Node& node, SoftmaxMethod method, bool deferred, int64_t furthest)
    : most_keys_(int64_t{1} << 16) {
  SoftmaxTables view{};
  view.kind = deferred ? Softmax::table : Softmax::scaled;
  const auto make = [&](int64_t heads, const auto& fill) {
    for (int64_t head = 0; head < heads; ++head) {
      auto arrays = std::make_shared<Arrays>();
      fill(*arrays, head);
      view.weights = arrays->weights.data();
      view.numerators = arrays->numerators.data();
      view.exps = arrays->exps.data();
      view.needed = arrays->needed.empty() ? nullptr : arrays->needed.data();
      view.guesses = arrays->guesses.data();
      view.first_guess = arrays->guesses.empty() ? 0 : guess_number(arrays->exps[0]);
      view.exp_bytes = arrays->exp_bytes.data();
      view.exp_width = static_cast<int>(arrays->exp_bytes.size() / distances);
      arrays_.push_back(arrays);
      views_.push_back(view);
    }
  };
  const auto require_shift = [&] {
    if (!deferred && node.scalar("shift") != 16) {
      throw Refusal("input 'shift': expected 16, found " + std::to_string(node.scalar("shift")));
    }
  };
  const auto require_offset = [&] {
    require_shift();
    if (!deferred && node.scalar("zp") != 1 << 15) {
      throw Refusal("input 'zp': expected 32768, found " + std::to_string(node.scalar("zp")));
    }
  };
  if (method == SoftmaxMethod::ivit) {
    const PerHead x0 = per_head(node, "x0", -65535, -1);
    require_shift();
    view.dividend = view.largest_sum = (uint64_t{1} << 31) - 1;
    if (!deferred) {
      make(x0.heads(), [&](Arrays& arrays, int64_t head) {
        for (int64_t t = 0; t < distances; ++t) {
          arrays.set(t, shift_exp(-t, x0[head], ivit_softmax_n), false);
        }
      });
      return;
    }
    const PerHead m = per_head(node, "m_w", 0, INT32_MAX), e = per_head(node, "e_w", 1, 62);
    make(common_heads({&x0, &m, &e}), [&](Arrays& arrays, int64_t head) {
      for (int64_t t = 0; t < distances; ++t) {
        const int64_t exp = shift_exp(-t, x0[head], ivit_softmax_n);
        arrays.set(t, rescale(exp, m[head], e[head]), true);
      }
    });
    return;
  }
  view.dividend = uint64_t{1} << 32;
  view.largest_sum = UINT64_MAX;
  if (method == SoftmaxMethod::lut) {
    const Tensor& table = node.constant("table", Type::int32);
    require_offset();
    const int64_t size = count(table.shape), last = size - 1 - furthest;
    if (last < 0) {
      throw Refusal("input 'table': expected at least " + std::to_string(furthest + 1) +
                    " entries, found shape " + text_of(table.shape));
    }
    const PerHead base = per_head(node, "base", 0, last);
    make(base.heads(), [&](Arrays& arrays, int64_t head) {
      for (int64_t t = 0; t <= furthest; ++t) {
        arrays.set(t, table.as<int32_t>()[base[head] + t], deferred);
      }
    });
    return;
  }
  const PerHead x0 = per_head(node, "x0", INT32_MIN / 64, -1);
  const PerHead b = per_head(node, "b", INT32_MIN, INT32_MAX);
  const bool log2 = method == SoftmaxMethod::fqvit;
  const PerHead c = per_head(node, "c", 1, log2 ? (1 << 23) - 1 : INT32_MAX);
  if (log2) {
    const int64_t heads = common_heads({&x0, &b, &c});
    view.kind = deferred ? Softmax::log2 : Softmax::scaled_log2;
    for (int64_t head = 0; head < heads; ++head) {
      most_keys_ = std::min(most_keys_, ((int64_t{1} << 33) - 1) / c[head]);
    }
    make(heads, [&](Arrays& arrays, int64_t head) {
      for (int64_t t = 0; t < distances; ++t) {
        arrays.exps[t] = fqvit_exp(-t, x0[head], b[head], c[head]);
      }
      if (arrays.exps[0] < 1) throw Refusal("softmax constants: expected exp(0) above 0");
      arrays.finish_exps();
    });
    return;
  }
  const PerHead m = per_head(node, deferred ? "m_w" : "m_p", 0, INT32_MAX);
  const PerHead e = per_head(node, deferred ? "e_w" : "e_p", 1, 62);
  require_offset();
  make(common_heads({&x0, &b, &c, &m, &e}), [&](Arrays& arrays, int64_t head) {
    for (int64_t t = 0; t < distances; ++t) {
      const IExp exp = i_exp(-t, x0[head], b[head], c[head]);
      const int64_t value = deferred
                                ? rescale(exp.z, m[head], least(exp.k + e[head], 62))
                                : ibert_softmax_step(exp, m[head], e[head]);
      arrays.set(t, value, deferred);
    }
  });
}

void HeadTables::require_keys(int64_t keys) const {
  if (keys <= most_keys_) return;
  throw Refusal("softmax constants: expected rows of at most " + std::to_string(most_keys_) +
                " keys, found " + std::to_string(keys));
}

}  // namespace mnq
