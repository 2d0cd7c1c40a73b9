import torch

from runners.mix64 import GOLDEN, mix64, mix64_, signed64

MASK = (1 << 64) - 1


def splitmix64_finalizer(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def test_words_mix_as_unsigned_integers_do_also_with_the_sign_bit_set() -> None:
    words = [0, 1, GOLDEN, MASK, 1 << 63, 0x0123456789ABCDEF]
    mixed = torch.tensor([signed64(word) for word in words])
    mix64_(mixed, torch.empty_like(mixed))
    assert mixed.tolist() == [signed64(splitmix64_finalizer(word)) for word in words]
    assert [mix64(word) for word in words] == [splitmix64_finalizer(word) for word in words]
    assert mix64(-1) == mix64(MASK + (1 << 70)) == splitmix64_finalizer(MASK)


def test_the_first_output_of_splitmix64_seeded_with_zero_is_the_published_one() -> None:
    word = torch.tensor([signed64(GOLDEN)])
    assert mix64_(word, torch.empty_like(word)).item() == signed64(0xE220A8397B1DCDAF)


def test_signed64_keeps_the_low_64_bits() -> None:
    assert signed64((1 << 64) + 5) == 5
    assert signed64((1 << 63) - 1) == (1 << 63) - 1
    assert signed64(1 << 63) == -(1 << 63)
