package node

import (
	"fmt"
	"hash/crc32"
	"strings"
)

// The small text files of a peer directory end in a line "crc32c <8 hex digits>", of all before it.

const sealTitle = "crc32c "

func sealText(text string) []byte { return append([]byte(text), sealOf(text)...) }

func sealOf(text string) string {
	return fmt.Sprintf("%s%08x\n", sealTitle, crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}

// unsealText returns what was sealed, false if it is not whole.
func unsealText(raw []byte) (string, bool) {
	at := strings.LastIndex(string(raw), sealTitle)
	if at < 0 {
		return "", false
	}
	text := string(raw[:at])
	return text, sealOf(text) == string(raw[at:])
}
