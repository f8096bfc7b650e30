// The softmax of every head of an attention, as tables made by the scalar cores when a session
// starts: with 8-bit scores, all methods cost the same.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/native/cpu/attention_job.h"
#include "ops/native/kernel.h"

namespace mnq {

enum class SoftmaxMethod { ivit, ibert, fqvit, lut };

class HeadTables {
 public:
  // From the constants of the method's attention operator; `furthest` is the largest distance of
  // two scores. Throws Refusal if they are outside the contract.
  HeadTables(const Node& node, SoftmaxMethod method, bool deferred, int64_t furthest);

  int64_t heads() const { return static_cast<int64_t>(views_.size()); }  // 1: the same for all
  const SoftmaxTables& of(int64_t head) const { return views_[heads() == 1 ? 0 : head]; }
  // Throws Refusal if rows of `keys` scores could leave the arithmetic's range.
  void require_keys(int64_t keys) const;

 private:
  struct Arrays;  // of one head
  std::vector<SoftmaxTables> views_;
  std::vector<std::shared_ptr<Arrays>> arrays_;
  int64_t most_keys_;
};

}  // namespace mnq
