// A wrong kernel for tests. Linked to the objects of the native library with --wrap, it stands
// between the library and its table of operators, of which the library itself knows nothing.
//
//   MNQ_FAULT="QLinear"        the last integer of every QLinear is wrong in its lowest bit
//   MNQ_FAULT="QLinear avx2"   on this path only
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "ops/native/cpu/path.h"
#include "ops/native/kernel.h"

namespace mnq {
namespace {

struct Fault {
  std::string name, path;
};

const Fault& fault() {
  static const Fault found = [] {
    Fault result;
    const char* text = std::getenv("MNQ_FAULT");
    std::istringstream(text == nullptr ? "" : text) >> result.name >> result.path;
    return result;
  }();
  return found;
}

class WrongKernel : public Kernel {
 public:
  WrongKernel(std::unique_ptr<Kernel> right, Type type) : right_(std::move(right)), type_(type) {}

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    return right_->output_shape(inputs);
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    std::vector<Shape> shapes;
    for (const Tensor& input : inputs) shapes.push_back(input.shape);
    right_->run(inputs, output, context);
    const size_t last = count(output_shape(shapes)) - 1;
    static_cast<char*>(output)[last * size_of(type_)] ^= 1;
  }

 private:
  std::unique_ptr<Kernel> right_;
  Type type_;
};

std::unique_ptr<Kernel> (*make_right)(const Node&, const Path&) = nullptr;

std::unique_ptr<Kernel> make_wrong(const Node& node, const Path& path) {
  auto right = make_right(node, path);
  if (!fault().path.empty() && fault().path != path.name) return right;
  return std::make_unique<WrongKernel>(std::move(right), node.to);
}

}  // namespace
}  // namespace mnq

// mnq::definitions(), as the linker knows it.
extern "C" {
const std::vector<mnq::Definition>& __real__ZN3mnq11definitionsEv();

const std::vector<mnq::Definition>& __wrap__ZN3mnq11definitionsEv() {
  static const std::vector<mnq::Definition> all = [] {
    std::vector<mnq::Definition> copy = __real__ZN3mnq11definitionsEv();
    for (mnq::Definition& definition : copy) {
      if (definition.name != mnq::fault().name) continue;
      mnq::make_right = definition.make;
      definition.make = mnq::make_wrong;
    }
    return copy;
  }();
  return all;
}
}
