import subprocess
import sys


def test_server_runs_without_torch_and_its_http_process_without_the_runtime():
    code = """
import sys
import service.server
print(sorted({"torch", "timm", "knet", "training", "export", "model", "onnxruntime"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
