package replica

import (
	"fmt"
	"log/slog"
)

// raftLog is raft's logger on slog. Raft panics on what it can't explain: the recover of who called it poisons the replica.
type raftLog struct{ log *slog.Logger }

func (l raftLog) Debug(v ...any)                   { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLog) Debugf(format string, v ...any)   { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLog) Info(v ...any)                    { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLog) Infof(format string, v ...any)    { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLog) Warning(v ...any)                 { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLog) Warningf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l raftLog) Error(v ...any)                   { l.log.Error(fmt.Sprint(v...)) }
func (l raftLog) Errorf(format string, v ...any)   { l.log.Error(fmt.Sprintf(format, v...)) }
func (l raftLog) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLog) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l raftLog) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLog) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
