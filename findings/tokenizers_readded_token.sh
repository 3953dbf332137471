#!/usr/bin/env bash
# tokenizers 0.23.3: a token that is added with normalized=True under a normaliser that prepends a mark (as Llama 2 has)
# takes the mark into its name: `id_to_token` and `decode` give "▁<x_1>" and " <x_1>", and of two in a row one is found.
# Added again with normalized=False, both are found, but the name and the decoded text keep the mark, until the tokenizer
# is serialised and read again. So a tokenizer that is repaired in place writes other text than a saved copy of it.
# Seen on Linux, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check tokenizers==0.23.3

cat > look.py <<'PYTHON'
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

vocab = {"<unk>": 0, "▁": 1, "a": 2}
tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
tokenizer.decoder = decoders.Replace("▁", " ")


def told(tokenizer: Tokenizer) -> str:
    number = tokenizer.token_to_id("<x_1>")
    ids = tokenizer.encode("<x_1><x_1>", add_special_tokens=False).ids
    return f"{ids.count(number)} of 2 found, {tokenizer.id_to_token(number)!r}, {tokenizer.decode([number])!r}"


tokenizer.add_tokens([AddedToken("<x_1>", normalized=True)])
print("added with normalized=True:       ", told(tokenizer))
tokenizer.add_tokens([AddedToken("<x_1>", normalized=False)])
print("again with normalized=False:      ", told(tokenizer))
print("serialised and read again:        ", told(Tokenizer.from_str(tokenizer.to_str())))
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="added with normalized=True:        1 of 2 found, '▁<x_1>', ' <x_1>'
again with normalized=False:       2 of 2 found, '▁<x_1>', ' <x_1>'
serialised and read again:         2 of 2 found, '<x_1>', '<x_1>'"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }
