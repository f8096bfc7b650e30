// RegisterCustomOps: hands every operator of definitions() to onnxruntime. This file and
// node.cc are the only ones that know it; what it calls back is here, what runs in node.cc.
#include <atomic>
#include <string>
#include <vector>

#include "ops/native/core.h"
#include "ops/native/node.h"

namespace mnq {
namespace {

// The element types that `to` allows come from a kernel's own checks; here any type will do.
constexpr auto any_type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

const Definition& definition_of(const OrtCustomOp* op) {
  return *static_cast<const Operator*>(op)->definition;
}

// GetMayInplace is told neither the operator nor the node: one function for each input.
template <int input>
size_t may_take_memory(int** inputs, int** outputs) {
  *inputs = new int(input);
  *outputs = new int(0);
  return 1;
}

void release_in_place(int* inputs, int* outputs) {
  delete inputs;
  delete outputs;
}

// The shapes of all inputs, and the names that onnxruntime has for lengths it does not know:
// length -2 - i is names[i].
struct Known {
  std::vector<Shape> shapes;
  std::vector<std::string> names;

  int64_t number_of(const std::string& name) {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return -2 - static_cast<int64_t>(i);
    }
    names.push_back(name);
    return -1 - static_cast<int64_t>(names.size());
  }
};

// A length without a name would read as the number -1, and two such as the same length.
std::string new_name() {
  static std::atomic<uint64_t> count{0};
  return "mnq_unknown_" + std::to_string(count++);
}

Known known_inputs(const OrtApi& api, const OrtShapeInferContext* context) {
  Known known;
  size_t count = 0;
  check(api.ShapeInferContext_GetInputCount(context, &count));
  for (size_t i = 0; i < count; ++i) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own, not ours to release
    check(api.ShapeInferContext_GetInputTypeShape(context, i, &info));
    Shape shape = shape_of(api, info);
    std::vector<const char*> names(shape.size());
    check(api.GetSymbolicDimensions(info, names.data(), names.size()));
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] >= 0) continue;
      shape[axis] = known.number_of(*names[axis] == '\0' ? new_name() : names[axis]);
    }
    known.shapes.push_back(std::move(shape));
  }
  return known;
}

// onnxruntime ignores what this returns; SessionNode refuses an output of the wrong type.
OrtStatus* infer_output(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi& api = *static_cast<const Operator*>(op)->api;
  return guarded(api, [&] {
    const Definition& definition = definition_of(op);
    Type type = definition.output;
    if (definition.has_to) {
      const OrtOpAttr* attribute = nullptr;
      check(api.ShapeInferContext_GetAttribute(context, "to", &attribute));
      int64_t to = 0;
      size_t bytes = 0;
      check(api.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &to, sizeof to, &bytes));
      type = type_of(to);
    }
    const Known known = known_inputs(api, context);
    Shape shape =
        definition.infer == nullptr ? known.shapes[0] : definition.infer(known.shapes);
    std::vector<std::string> names(shape.size());
    std::vector<const char*> pointers;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] == -1) names[axis] = new_name();
      if (shape[axis] < -1) names[axis] = known.names[-2 - shape[axis]];
      shape[axis] = most(shape[axis], -1);
      pointers.push_back(names[axis].c_str());
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api.CreateTensorTypeAndShapeInfo(&info));
    const Owned<OrtTensorTypeAndShapeInfo> owner(info, api.ReleaseTensorTypeAndShapeInfo);
    check(api.SetTensorElementType(info, static_cast<ONNXTensorElementDataType>(type)));
    check(api.SetDimensions(info, shape.data(), shape.size()));
    check(api.SetSymbolicDimensions(info, pointers.data(), pointers.size()));
    check(api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
  });
}

// Whom the operators are for. Emulated kernels for GPUs take the place of the CPU's.
#if defined(MNQ_EMULATE_CUDA)
constexpr bool on_devices[] = {true};
constexpr const char* device_provider = "CPUExecutionProvider";
#elif defined(MNQ_CUDA)
constexpr bool on_devices[] = {false, true};
constexpr const char* device_provider = "CUDAExecutionProvider";
#else
constexpr bool on_devices[] = {false};
constexpr const char* device_provider = "";
#endif

// A kernel for GPUs reads its constants when it is made, and copies them itself.
OrtMemType memory_of(const OrtCustomOp* op, size_t input) {
  const bool on_host = static_cast<const Operator*>(op)->on_device &&
                       input >= definition_of(op).activations;
  return on_host ? OrtMemTypeCPUInput : OrtMemTypeDefault;
}

const char* provider_of(const OrtCustomOp* op) {
  return static_cast<const Operator*>(op)->on_device ? device_provider : "CPUExecutionProvider";
}

Operator make_operator(const OrtApi& api, const Definition& definition, bool on_device) {
  Operator op{};
  op.api = &api;
  op.definition = &definition;
  op.on_device = on_device;
  op.version = api_version;
  op.GetName = [](const OrtCustomOp* self) { return definition_of(self).name; };
  op.GetExecutionProviderType = provider_of;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return definition_of(self).inputs.size(); };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return any_type; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = memory_of;
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op.GetOutputType = [](const OrtCustomOp* self, size_t) {
    const Definition& own = definition_of(self);
    return own.has_to ? any_type : static_cast<ONNXTensorElementDataType>(own.output);
  };
  // A required output of any type would have to have the type of the one input of any type.
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_OPTIONAL; };
  op.GetVariadicInputMinArity = op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) {
    return 0;
  };
  op.GetVariadicOutputMinArity = op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) {
    return 0;
  };
  op.InferOutputShapeFn = infer_output;
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute_kernel;
  op.KernelDestroy = destroy_kernel;
  if (definition.in_place >= 0) {
    op.GetMayInplace = definition.in_place == 0 ? may_take_memory<0> : may_take_memory<1>;
    op.ReleaseMayInplace = release_in_place;
  }
  return op;
}

// One domain for all sessions. It is never destroyed: at exit a session may outlive this library's
// other objects.
OrtCustomOpDomain* domain(const OrtApi& api) {
  static OrtCustomOpDomain* const made = [&api] {
    OrtCustomOpDomain* result = nullptr;
    check(api.CreateCustomOpDomain("mnq", &result));
    auto& operators = *new std::vector<Operator>;
    for (const Definition& definition : definitions()) {
      for (bool on_device : on_devices) {
        operators.push_back(make_operator(api, definition, on_device));
      }
    }
    for (const Operator& op : operators) check(api.CustomOpDomain_Add(result, &op));
    return result;
  }();
  return made;
}

}  // namespace
}  // namespace mnq

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace mnq;
  const OrtApi* api = base->GetApi(api_version);
  if (api == nullptr) {
    const std::string found = base->GetVersionString();
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, ("mnq ops need onnxruntime >= 1.21, found " + found).c_str());
  }
  return guarded(*api, [&] {
    chosen_path();  // a wrong MNQ_CPU_PATH is told once, before any node
    check(api->AddCustomOpDomain(options, domain(*api)));
  });
}
