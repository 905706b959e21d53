# Builds zeroq's images with BuildKit, from the repository's root:
#
#   docker buildx bake -f deploy/docker/docker-bake.hcl                    all that a cluster with GPUs runs
#   TAG=0.1.0 REGISTRY=registry.example.com/zeroq docker buildx bake -f deploy/docker/docker-bake.hcl --push
#   docker buildx bake -f deploy/docker/docker-bake.hcl cpu                the images of deploy/k8s/overlays/cpu
#   docker buildx bake -f deploy/docker/docker-bake.hcl evaluator-languages
#
# Every image has the one TAG; what differs in content differs in name.

variable "REGISTRY" {
  default = "zeroq"
}

variable "TAG" {
  default = "0.1.0"
}

# The commit, for the image's label; CI sets it.
variable "REVISION" {
  default = "unknown"
}

# PyTorch's CPU builds. Only the -cpu images take PyTorch from here.
variable "TORCH_INDEX_CPU" {
  default = "https://download.pytorch.org/whl/cpu"
}

group "default" {
  targets = ["control", "evaluator", "actor", "learner"]
}

group "cpu" {
  targets = ["control", "evaluator", "actor-cpu", "learner-cpu"]
}

group "all" {
  targets = ["default", "cpu", "evaluator-languages", "evaluator-models"]
}

target "_common" {
  context   = "."
  platforms = ["linux/amd64"]
  args = {
    VERSION  = TAG
    REVISION = REVISION
  }
}

# Broker, autoscaler.
target "control" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/control.Dockerfile"
  tags       = ["${REGISTRY}/control:${TAG}"]
}

# Graders without torch; programs in Python alone (sandbox tier 1).
target "evaluator" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/evaluator.Dockerfile"
  target     = "evaluator"
  tags       = ["${REGISTRY}/evaluator:${TAG}"]
}

# The same with the compilers of every language, for pods that hold tier 2 or 3 (deploy/k8s/overlays/gvisor).
target "evaluator-languages" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/evaluator.Dockerfile"
  target     = "languages"
  tags       = ["${REGISTRY}/evaluator-languages:${TAG}"]
}

# The same with torch and transformers, for reward models on CPUs.
target "evaluator-models" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/evaluator.Dockerfile"
  target     = "models"
  args       = { TORCH_INDEX = TORCH_INDEX_CPU }
  tags       = ["${REGISTRY}/evaluator-models:${TAG}"]
}

target "actor" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/actor.Dockerfile"
  tags       = ["${REGISTRY}/actor:${TAG}"]
}

target "actor-cpu" {
  inherits = ["actor"]
  args     = { ACCELERATOR = "cpu", TORCH_INDEX = TORCH_INDEX_CPU }
  tags     = ["${REGISTRY}/actor-cpu:${TAG}"]
}

target "learner" {
  inherits   = ["_common"]
  dockerfile = "deploy/docker/learner.Dockerfile"
  tags       = ["${REGISTRY}/learner:${TAG}"]
}

target "learner-cpu" {
  inherits = ["learner"]
  args     = { ACCELERATOR = "cpu", TORCH_INDEX = TORCH_INDEX_CPU }
  tags     = ["${REGISTRY}/learner-cpu:${TAG}"]
}
