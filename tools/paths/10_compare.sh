# title: Codecs side by side, and what listeners say
# extras: eval
# A codec of one's own is a function; others come by name. Three seconds of two clips are enough
# to see how it goes.
cat > mine.py <<< 'def eight_bits(audio, rate): return (audio * 127).round() / 127'
earvae evaluate music/ --most 2 --seconds 3 -o results/ \
    --codec earvae --codec mine=mine.py:eight_bits --codec linear:64 \
    --title "Three codecs" --notes "Headphones, please."
ls results/ results/report

# `results/report/index.html` is the page. What is not possible is refused with what is, and the
# rest is done; what was measured before is kept.
earvae evaluate music/ --most 2 --seconds 3 -o results/ --codec earvae --codec mp3:9999  # status 1
earvae evaluate music/ --most 2 --seconds 3 -o results/ --codec dac  # status 1

# Listeners save their ratings on the page. Three of them (made up, the third one deaf), put together:
ls checkout/tests/evaluation/answers
earvae listeners checkout/tests/evaluation/answers/*.json --csv ratings.csv
head -4 ratings.csv
