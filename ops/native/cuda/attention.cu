// A block has some queries of one head on chip, with all of their scores: the exact maximum and sum
// of a row are at hand, and nothing is rescaled on the way. A warp has 16 of the queries.
#include "ops/native/cuda/attention.h"

#include "ops/fqvit_softmax/kernel.h"
#include "ops/native/cpu/softmax_tables.h"
#include "ops/native/cuda/attention_job.h"
#include "ops/native/cuda/rescale.h"

namespace mnq {
namespace {

constexpr int warp_rows = 16;

// The head that a block works on, and where its tokens are.
struct Head {
  int64_t image, window, head, first_query;
};

MNQ_DEVICE Head head_of_block(const DeviceAttention& job, int rows) {
  const int64_t at = block_x();
  return {at / job.heads / job.windows, at / job.heads % job.windows, at % job.heads,
          block_y() * rows};
}

MNQ_DEVICE int64_t token(const DeviceAttention& job, const Head& here, int64_t place) {
  return job.order == nullptr ? place : job.order[here.window * job.keys + place];
}

MNQ_DEVICE int64_t start_of(const Steps& steps, const Head& here) {
  return here.image * steps.image + here.head * steps.head;
}

MNQ_DEVICE int32_t number_of(const HeadNumbers& numbers, const Head& here) {
  return numbers.of[numbers.per_head ? here.head : 0];
}

MNQ_DEVICE uint32_t word_at(const void* memory) {
  return *static_cast<const uint32_t*>(memory);
}

// Rows [first, first + rows) of codes into shared memory, zeros behind the last row and column. They
// are there after a wait for the group and a barrier.
MNQ_DEVICE void load_rows(const DeviceAttention& job, const Head& here, const int8_t* from,
                          const Steps& steps, int first, int rows, int all, int threads,
                          const AttentionMemory& memory, int8_t* to) {
  constexpr int piece = 16;
  const int pieces = (memory.query_stride - 16) / piece;
  from += start_of(steps, here);
  for (int i = thread(); i < rows * pieces; i += threads) {
    const int row = i / pieces, column = i % pieces * piece;
    int8_t* target = to + row * memory.query_stride + column;
    const bool inside = first + row < all && column < job.depth;
    const int8_t* source = inside ? from + token(job, here, first + row) * steps.token + column : from;
    if (job.whole) {
      copy_later(target, source, !inside);
      continue;
    }
    for (int c = 0; c < piece; ++c) target[c] = inside && column + c < job.depth ? source[c] : 0;
  }
  end_group();
}

// Columns [first_column, + attention_depth) of the values of keys [first_key, + attention_keys), a
// row for each column. A thread turns four keys by four columns.
MNQ_DEVICE void load_values(const DeviceAttention& job, const Head& here, int first_key,
                            int first_column, int threads, const AttentionMemory& memory,
                            int8_t* to) {
  constexpr int fours = attention_depth / 4;
  const int8_t* from = job.v + start_of(job.key, here);
  for (int i = thread(); i < attention_keys / 4 * fours; i += threads) {
    const int key = i / fours * 4, column = first_column + i % fours * 4;
    uint32_t turned[4] = {};  // of a column each
    MNQ_UNROLL
    for (int n = 0; n < 4; ++n) {
      if (first_key + key + n >= job.keys || column >= job.depth) continue;
      const int8_t* row = from + token(job, here, first_key + key + n) * job.key.token + column;
      uint32_t word = 0;
      if (job.whole) {
        word = word_at(row);
      } else {
        for (int c = 0; c < 4 && column + c < job.depth; ++c) {
          word |= static_cast<uint32_t>(static_cast<uint8_t>(row[c])) << 8 * c;
        }
      }
      MNQ_UNROLL
      for (int c = 0; c < 4; ++c) turned[c] |= (word >> 8 * c & 0xff) << 8 * n;
    }
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) {
      int8_t* target = to + (i % fours * 4 + c) * memory.value_stride + key;
      *reinterpret_cast<uint32_t*>(target) = turned[c];
    }
  }
}

// The fragment of 16 rows and 32 columns from `memory` on.
MNQ_DEVICE void load_left(const void* memory, int stride, uint32_t (&left)[4]) {
  const char* from = static_cast<const char*>(memory);
  load_matrices(from + (lane() % 8 + lane() / 8 % 2 * 8) * stride + lane() / 16 * 16, left);
}

// The fragments of two times 8 columns, which are rows here, and 32 rows.
MNQ_DEVICE void load_right(const void* memory, int stride, uint32_t (&right)[2][2]) {
  const char* from = static_cast<const char*>(memory);
  uint32_t words[4];
  load_matrices(from + (lane() % 8 + lane() / 16 * 8) * stride + lane() / 8 % 2 * 16, words);
  MNQ_UNROLL
  for (int i = 0; i < 4; ++i) right[i / 2][i % 2] = words[i];
}

// Two codes side by side.
MNQ_DEVICE void write_two(int8_t* to, int64_t first, int64_t second) {
  *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>((first & 0xff) | (second & 0xff) << 8);
}

// Line 1 for this warp's rows and the keys of the tile in shared memory. Keys behind the last get
// any codes.
MNQ_DEVICE void score_tile(const DeviceAttention& job, const Head& here, int first_key,
                           const AttentionMemory& memory, const int8_t* q, const int8_t* k,
                           int8_t* scores) {
  constexpr int key_tiles = attention_keys / 8;
  int32_t sums[key_tiles][4] = {};
  q += warp() * warp_rows * memory.query_stride;
  for (int d = 0; d < memory.query_stride - 16; d += attention_depth) {
    uint32_t left[4];
    load_left(q + d, memory.query_stride, left);
    MNQ_UNROLL
    for (int j = 0; j < key_tiles; j += 2) {
      uint32_t right[2][2];
      load_right(k + j * 8 * memory.query_stride + d, memory.query_stride, right);
      multiply_add<false>(sums[j], left, right[0]);
      multiply_add<false>(sums[j + 1], left, right[1]);
    }
  }
  const int32_t m = number_of(job.score_m, here), e = number_of(job.score_e, here);
  const int64_t plane = job.plane == nullptr ? here.image : job.plane[here.window];
  MNQ_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp() * warp_rows + lane() / 4 + half * 8;
    const int64_t query = here.first_query + row;
    if (query >= job.queries) continue;
    const int64_t bias_row = (plane * job.heads + here.head) * job.queries + query;
    const int32_t* bias = job.bias + place(job.bias_places, bias_row, 0);
    MNQ_UNROLL
    for (int j = 0; j < key_tiles; ++j) {
      const int key = first_key + j * 8 + lane() % 4 * 2;
      int64_t codes[2];
      MNQ_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int at = key + c < job.keys ? key + c : 0;
        const auto z = static_cast<uint32_t>(sums[j][half * 2 + c]) +
                       static_cast<uint32_t>(bias[at * job.bias_places.column_step]);
        codes[c] = clamp(rescale_word(static_cast<int32_t>(z), m, e), job.score_lo, job.score_hi);
      }
      write_two(scores + row * memory.plane_stride + key, codes[0], codes[1]);
    }
  }
}

MNQ_DEVICE int64_t factor_of(int64_t divisor) { return power_of_two(31) / divisor; }

// Calls f(first, count, codes) with four codes of a row, `count` of them keys, for this lane's share.
template <class F>
MNQ_DEVICE void by_fours(const DeviceAttention& job, const int8_t* row, F&& f) {
  for (int first = lane() * 4; first < job.keys; first += warp_size * 4) {
    const uint32_t word = word_at(row + first);
    int codes[4];
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) codes[c] = static_cast<int8_t>(word >> 8 * c & 0xff);
    f(first, job.keys - first < 4 ? job.keys - first : 4, codes);
  }
}

// Calls f(distance) for every key of this lane's share, and sums in the warp what it returns.
template <class F>
MNQ_DEVICE int64_t sum_row(const DeviceAttention& job, const int8_t* row, int top, F&& f) {
  int64_t sum = 0;
  by_fours(job, row, [&](int, int count, const int(&codes)[4]) {
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) sum += c < count ? static_cast<int64_t>(f(top - codes[c])) : 0;
  });
  return warp_sum(sum);
}

// Puts f(distance) in the place of every score: 8 bits, or 16 in two planes.
template <class F>
MNQ_DEVICE void weigh_row(const DeviceAttention& job, const AttentionMemory& memory, int8_t* row,
                          int top, F&& f) {
  int8_t* high = row + memory.rows * memory.plane_stride;
  by_fours(job, row, [&](int first, int count, const int(&codes)[4]) {
    uint32_t low_word = 0, high_word = 0;
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) {
      const uint32_t weight = c < count ? static_cast<uint32_t>(f(top - codes[c])) : 0;
      low_word |= (weight & 0xff) << 8 * c;
      high_word |= (weight >> 8 & 0xff) << 8 * c;
    }
    *reinterpret_cast<uint32_t*>(row + first) = low_word;
    if (memory.planes == 2) *reinterpret_cast<uint32_t*>(high + first) = high_word;
  });
  const int behind = (job.keys + 3) / 4 * 4;
  for (int i = behind + lane(); i < memory.plane_stride - 16; i += warp_size) {
    row[i] = 0;
    if (memory.planes == 2) high[i] = 0;
  }
}

// Line 2 for one row of scores, which becomes one or two rows of weights; line 4's factor.
MNQ_DEVICE int64_t soften_row(const DeviceAttention& job, const Head& here,
                              const AttentionMemory& memory, int8_t* row) {
  const DeviceSoftmax& softmax = job.softmax;
  const int64_t first = softmax.per_head ? here.head * distances : 0;
  int top = -128;
  by_fours(job, row, [&](int, int count, const int(&codes)[4]) {
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) top = c < count && codes[c] > top ? codes[c] : top;
  });
  top = warp_max(top);
  if (softmax.kind == Softmax::table) {
    const uint8_t* weights = softmax.weights + first;
    const auto weight = [=](int distance) { return weights[distance]; };
    const int64_t sum = sum_row(job, row, top, weight);
    weigh_row(job, memory, row, top, weight);
    return factor_of(sum);
  }
  if (softmax.kind == Softmax::scaled) {
    const uint32_t* numerators = softmax.numerators + first;
    const auto total = static_cast<uint64_t>(
        sum_row(job, row, top, [=](int distance) { return numerators[distance]; }));
    const uint64_t f =
        softmax.dividend / (total < softmax.largest_sum ? total : softmax.largest_sum);
    weigh_row(job, memory, row, top,
              [=](int distance) { return (numerators[distance] * f) >> 16; });
    return 1;
  }
  const int64_t* exps = softmax.exps + first;
  const int64_t sum = sum_row(job, row, top, [=](int distance) { return exps[distance]; });
  if (softmax.kind == Softmax::scaled_log2) {
    weigh_row(job, memory, row, top, [=](int distance) {
      const int64_t code = fqvit_softmax_code(negative_log2(sum, exps[distance]));
      return code == fqvit_zero_code ? 0 : power_of_two(15 - code);
    });
    return 1;
  }
  const int64_t least_log = negative_log2(sum, exps[0]);  // of the largest: its distance is 0
  weigh_row(job, memory, row, top, [=](int distance) {
    const int64_t behind = negative_log2(sum, exps[distance]) - least_log;
    return behind < deferred_levels ? 128 >> behind : 0;
  });
  return least_log + 7 > 31 ? 0 : factor_of(power_of_two(least_log + 7));
}

// Lines 4 and 5.
MNQ_DEVICE int64_t finish(const DeviceAttention& job, const Head& here, int32_t low, int32_t high,
                          int64_t factor) {
  const int64_t u = has_two_planes(job.softmax.kind)
                        ? low + 256 * static_cast<int64_t>(high)
                        : (low * factor + (1 << 15)) >> 16;
  return clamp(rescale_word(static_cast<int32_t>(u), number_of(job.m, here), number_of(job.e, here)),
               number_of(job.lo, here), number_of(job.hi, here));
}

// Line 3 for columns [first_column, + attention_depth) of the output, and what follows it.
MNQ_DEVICE void weigh_values(const DeviceAttention& job, const Head& here, int first_column,
                             int threads, const AttentionMemory& memory, const uint8_t* planes,
                             const int64_t* factors, int8_t* tile) {
  constexpr int column_tiles = attention_depth / 8;
  int32_t sums[2][column_tiles][4] = {};
  for (int first_key = 0; first_key < job.keys; first_key += attention_keys) {
    sync_block();
    load_values(job, here, first_key, first_column, threads, memory, tile);
    sync_block();
    for (int key = 0; key < attention_keys; key += 32) {
      uint32_t right[column_tiles / 2][2][2];
      MNQ_UNROLL
      for (int j = 0; j < column_tiles / 2; ++j) {
        load_right(tile + j * 16 * memory.value_stride + key, memory.value_stride, right[j]);
      }
      MNQ_UNROLL
      for (int plane = 0; plane < 2; ++plane) {
        if (plane == memory.planes) break;
        uint32_t left[4];
        const int row = plane * memory.rows + warp() * warp_rows;
        load_left(planes + row * memory.plane_stride + first_key + key, memory.plane_stride, left);
        MNQ_UNROLL
        for (int j = 0; j < column_tiles; ++j) {
          multiply_add<true>(sums[plane][j], left, right[j / 2][j % 2]);
        }
      }
    }
  }
  MNQ_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp() * warp_rows + lane() / 4 + half * 8;
    const int64_t query = here.first_query + row;
    if (query >= job.queries) continue;
    int8_t* y = job.y + start_of(job.out, here) + token(job, here, query) * job.out.token;
    MNQ_UNROLL
    for (int j = 0; j < column_tiles; ++j) {
      const int column = first_column + j * 8 + lane() % 4 * 2;
      const int r = half * 2;
      const int64_t first = finish(job, here, sums[0][j][r], sums[1][j][r], factors[row]);
      const int64_t second = finish(job, here, sums[0][j][r + 1], sums[1][j][r + 1], factors[row]);
      if (job.whole) {
        if (column < job.depth) write_two(y + column, first, second);
        continue;
      }
      if (column < job.depth) y[column] = static_cast<int8_t>(first);
      if (column + 1 < job.depth) y[column + 1] = static_cast<int8_t>(second);
    }
  }
}

template <int warps>
MNQ_KERNEL_OF(warps * warp_size) attention_kernel(DeviceAttention job, AttentionMemory memory) {
  constexpr int threads = warps * warp_size;
  auto* q = reinterpret_cast<int8_t*>(shared_memory());
  int8_t *tile = q + memory.tile_at, *scores = q + memory.planes_at;
  auto* factors = reinterpret_cast<int64_t*>(q + memory.factors_at);
  const Head here = head_of_block(job, memory.rows);
  const auto first_query = static_cast<int>(here.first_query);
  load_rows(job, here, job.q, job.query, first_query, memory.rows, job.queries, threads, memory, q);
  for (int first_key = 0; first_key < job.keys; first_key += attention_keys) {
    sync_block();
    load_rows(job, here, job.k, job.key, first_key, attention_keys, job.keys, threads, memory,
              tile);
    wait_for_groups<0>();
    sync_block();
    score_tile(job, here, first_key, memory, q, tile, scores);
  }
  sync_warp();  // a warp reads the scores of its own rows only
  for (int i = 0; i < warp_rows; ++i) {
    const int row = warp() * warp_rows + i;
    if (here.first_query + row >= job.queries) break;
    const int64_t factor = soften_row(job, here, memory, scores + row * memory.plane_stride);
    if (lane() == 0) factors[row] = factor;
  }
  sync_warp();
  for (int column = 0; column < job.depth; column += attention_depth) {
    weigh_values(job, here, column, threads, memory, reinterpret_cast<const uint8_t*>(scores),
                 factors, tile);
  }
}

constexpr int most_warps = 4;

class AttentionOnDevice : public DeviceKernel {
 public:
  AttentionOnDevice(const Node& node, std::unique_ptr<Kernel> contract, SoftmaxMethod method,
                    bool deferred, AttentionLayout layout)
      : DeviceKernel(std::move(contract)),
        layout_(layout),
        bias_shape_(node["bias"].shape),
        bias_(node.constant("bias", Type::int32)) {
    const auto by_head = [&](const char* name, HeadNumbers& numbers) {
      numbers_.emplace_back(node[name]);
      numbers = {numbers_.back().data(), count(node[name].shape) > 1};
    };
    by_head("m_s", job_.score_m);
    by_head("e_s", job_.score_e);
    by_head("m", job_.m);
    by_head("e", job_.e);
    by_head("lo", job_.lo);
    by_head("hi", job_.hi);
    job_.score_lo = static_cast<int32_t>(node.scalar("lo_s"));
    job_.score_hi = static_cast<int32_t>(node.scalar("hi_s"));
    job_.bias = bias_.data();
    copy_tables(HeadTables(node, method, deferred, job_.score_hi - job_.score_lo));
    if (layout == AttentionLayout::window) {
      order_ = DeviceArray<int64_t>(node["order"]);
      kind_ = DeviceArray<int64_t>(node["kind"]);
      job_.order = order_.data();
      job_.plane = kind_.data();
      window_shape_ = node["order"].shape;
    }
    allow_shared(attention_kernel<most_warps>, most_shared);
    allow_shared(attention_kernel<1>, most_shared);
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    DeviceAttention job = job_;
    const Shape& shape = inputs[0].shape;
    job.q = inputs[0].as<int8_t>();
    job.y = static_cast<int8_t*>(output);
    job.images = shape[0];
    job.windows = 1;
    if (layout_ == AttentionLayout::separate) {
      const int64_t heads = shape[1], queries = shape[2], keys = inputs[1].shape[2];
      place_tokens(job, heads, queries, keys, shape[3]);
      job.k = inputs[1].as<int8_t>();
      job.v = inputs[2].as<int8_t>();
      job.query = job.out = {heads * queries * shape[3], queries * shape[3], shape[3]};
      job.key = {heads * keys * shape[3], keys * shape[3], shape[3]};
    } else {
      const int64_t tokens = shape[1], heads = shape[3], width = heads * shape[4];
      const bool windows = layout_ == AttentionLayout::window;
      const int64_t length = windows ? window_shape_[1] : tokens;
      if (windows) job.windows = window_shape_[0];
      place_tokens(job, heads, length, length, shape[4]);
      job.k = job.q + width;
      job.v = job.q + 2 * width;
      job.query = job.key = {tokens * 3 * width, shape[4], 3 * width};
      job.out = {tokens * width, shape[4], width};
    }
    job.whole = job.depth % 16 == 0 && aligned(job.q) && aligned(job.k) && aligned(job.v) &&
                aligned(job.y);
    const int64_t planes = job.plane == nullptr ? job.images : bias_shape_[0];
    const Shape scores{planes, job.heads, job.queries, job.keys};
    job.bias_places = places_of(RowBroadcast("bias", bias_shape_, scores));
    const auto need = [&](int warps) {
      return attention_memory(warps, job.keys, job.depth, job.softmax.kind);
    };
    const int64_t heads = job.images * job.windows * job.heads;
    if (static_cast<size_t>(need(most_warps).total) <= most_shared) {
      start(attention_kernel<most_warps>, most_warps, need(most_warps), heads, job, context);
    } else if (static_cast<size_t>(need(1).total) <= most_shared) {
      start(attention_kernel<1>, 1, need(1), heads, job, context);
    } else {
      throw Refusal("inputs: expected rows of scores that fit a block's shared memory, found " +
                    std::to_string(job.keys) + " keys of depth " + std::to_string(job.depth));
    }
  }

 private:
  static void place_tokens(DeviceAttention& job, int64_t heads, int64_t queries, int64_t keys,
                           int64_t depth) {
    job.heads = heads;
    job.queries = static_cast<int>(queries);
    job.keys = static_cast<int>(keys);
    job.depth = static_cast<int>(depth);
  }

  static void start(void (*kernel)(DeviceAttention, AttentionMemory), int warps,
                    const AttentionMemory& memory, int64_t heads, const DeviceAttention& job,
                    Context& context) {
    const int64_t parts = blocks_of(job.queries, memory.rows);
    if (heads * parts == 0) return;
    launch(kernel,
           {heads, parts, 1, warps * warp_size, static_cast<size_t>(memory.total)},
           context.stream(), job, memory);
  }

  void copy_tables(const HeadTables& tables) {
    std::vector<uint8_t> weights;
    std::vector<uint32_t> numerators;
    std::vector<int64_t> exps;
    for (int64_t head = 0; head < tables.heads(); ++head) {
      const SoftmaxTables& own = tables.of(head);
      weights.insert(weights.end(), own.weights, own.weights + distances);
      numerators.insert(numerators.end(), own.numerators, own.numerators + distances);
      exps.insert(exps.end(), own.exps, own.exps + distances);
    }
    weights_ = DeviceArray<uint8_t>(weights);
    numerators_ = DeviceArray<uint32_t>(numerators);
    exps_ = DeviceArray<int64_t>(exps);
    const SoftmaxTables& any = tables.of(0);
    job_.softmax = {any.kind,        tables.heads() > 1, weights_.data(), numerators_.data(),
                    exps_.data(),    any.dividend,       any.largest_sum};
  }

  AttentionLayout layout_;
  DeviceAttention job_{};
  Shape bias_shape_, window_shape_;
  DeviceArray<int32_t> bias_;
  std::vector<DeviceArray<int32_t>> numbers_;
  DeviceArray<int64_t> order_, kind_, exps_;
  DeviceArray<uint8_t> weights_;
  DeviceArray<uint32_t> numerators_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_attention(const Node& node, std::unique_ptr<Kernel> contract,
                                              SoftmaxMethod method, bool deferred,
                                              AttentionLayout layout) {
  return std::make_unique<AttentionOnDevice>(node, std::move(contract), method, deferred, layout);
}

}  // namespace mnq
