package packet

import "fmt"

// Error says why bytes are not a packet. Every failure of a Decode is one.
type Error struct {
	Code      ReasonCode // the code that the specification wants the sender to hear
	Statement string     // the normative statement broken, such as "MQTT-3.3.1-4"; empty where none has a number
	Msg       string     // the fault, for an operator's log and a Reason String
}

// Error returns the message, the Reason Code's name and the statement.
func (e *Error) Error() string {
	if e.Statement == "" {
		return fmt.Sprintf("%s (0x%02X %s)", e.Msg, byte(e.Code), e.Code)
	}
	return fmt.Sprintf("%s (0x%02X %s) [%s]", e.Msg, byte(e.Code), e.Code, e.Statement)
}

func malformed(statement, msg string) *Error {
	return &Error{Code: MalformedPacket, Statement: statement, Msg: msg}
}

func violation(statement, msg string) *Error {
	return &Error{Code: ProtocolError, Statement: statement, Msg: msg}
}

// asError keeps a nil *Error from becoming a non-nil error.
func asError(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}
