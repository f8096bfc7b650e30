// Attention of one head, whatever the layout of the tensors around it.
#pragma once

#include "ops/native/cpu/broadcast.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"
#include "ops/native/cpu/softmax_tables.h"

namespace mnq {

// The constants of an attention operator but for the bias.
class HeadAttention {
 public:
  // Throws Refusal if they are outside the contract.
  HeadAttention(const Node& node, const Path& path, SoftmaxMethod method, bool deferred);

  // Throws Refusal unless they are for so many heads, and for rows of so many keys.
  void require(int64_t heads, int64_t keys) const;

  // Bytes of the scratch memory of `attend`.
  static int64_t scratch_bytes(int64_t keys, int64_t depth);

  // Packs keys and values, rows `stride` apart, and runs the job, which has its queries, its bias,
  // its output and their lengths. scratch: aligned to 64.
  void attend(AttentionJob job, int64_t head, const int8_t* k, const int8_t* v, int64_t stride,
              char* scratch) const;

 private:
  const Path& path_;
  Limits score_limits_;
  PartLimits limits_;
  OwnedRescaling score_scale_, scale_;
  HeadTables tables_;
};

// A bias that broadcasts to scores of `shape`: (planes, heads, queries, keys).
class ScoreBias {
 public:
  ScoreBias(const Tensor& bias, const Shape& shape);

  // Gives a job that begins at query `first` of a head its rows; `at`: plane * heads + head.
  void give(AttentionJob& job, int64_t at, int64_t first) const;

 private:
  RowBroadcast rows_;
  const int32_t* data_;  // null: no bias
  int64_t queries_, row_stride_;
};

}  // namespace mnq
