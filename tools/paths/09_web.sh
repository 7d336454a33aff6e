# title: In the browser
# extras: export
# A page that computes in the browser. ONNX Runtime Web comes from npm, once.
earvae export --web page/
ls page/

# Any web server can show it. `--serve` is one for this machine, with the headers for threads:
timeout -s INT 60 earvae export --web page/ --serve || true

# Driven in Chromium: the song goes in, the WAV that the page saves is compared with what the Python
# runner writes, and requests to elsewhere are counted.
pip install --quiet playwright
earvae export --onnx onnx/
python checkout/tools/drive_page.py page/ music/automat.flac --runner onnx/runner.py

# The runner takes folders, and resamples where soxr is installed.
python onnx/runner.py reconstruct music/ music_vae/
