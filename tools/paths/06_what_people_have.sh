# title: What people have: M4A, WebM, videos, pipes, and two files of one name
# extras: media
# Music as phones, shops and browsers store it, here made from a shipped clip with PyAV:
python checkout/tools/media_samples.py music/automat.flac phone/
ls phone
earvae info phone/song.m4a
earvae reconstruct phone/song.m4a -o song.wav

# A whole folder. Four files are called song, so these keep their suffixes:
earvae reconstruct phone/ -o phone_vae/
ls phone_vae

# What cannot be read is named, with its place, and the others are done all the same:
head -c 60000 phone/song.m4a > phone/half.m4a
earvae encode phone/ -o latents/  # status 1

# Through pipes, one file at a time. Figures and messages go to standard error:
earvae reconstruct - -o - < phone/song.webm > piped.wav
earvae encode phone/song.m4a -o - | earvae decode - -o decoded.wav
earvae info piped.wav
