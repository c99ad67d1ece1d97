package packet

// SetPayloadFormatIndicator says whether the payload is UTF-8 (1) or bytes (0).
func (p *Properties) SetPayloadFormatIndicator(v byte) {
	p.PayloadFormatIndicator = v
	p.Present |= 1 << PropPayloadFormatIndicator
}

// SetMessageExpiryInterval sets the message's lifetime in seconds.
func (p *Properties) SetMessageExpiryInterval(v uint32) {
	p.MessageExpiryInterval = v
	p.Present |= 1 << PropMessageExpiryInterval
}

// SetContentType describes the payload.
func (p *Properties) SetContentType(v string) {
	p.ContentType = v
	p.Present |= 1 << PropContentType
}

// SetResponseTopic names the topic that a response goes to.
func (p *Properties) SetResponseTopic(v string) {
	p.ResponseTopic = v
	p.Present |= 1 << PropResponseTopic
}

// SetCorrelationData tells the requester which request a response answers.
func (p *Properties) SetCorrelationData(v []byte) {
	p.CorrelationData = v
	p.Present |= 1 << PropCorrelationData
}

// SetSessionExpiryInterval sets how many seconds the session outlives the connection.
func (p *Properties) SetSessionExpiryInterval(v uint32) {
	p.SessionExpiryInterval = v
	p.Present |= 1 << PropSessionExpiryInterval
}

// SetAssignedClientIdentifier tells a client the identifier that the server gave it.
func (p *Properties) SetAssignedClientIdentifier(v string) {
	p.AssignedClientIdentifier = v
	p.Present |= 1 << PropAssignedClientIdentifier
}

// SetServerKeepAlive overrides the client's Keep Alive.
func (p *Properties) SetServerKeepAlive(v uint16) {
	p.ServerKeepAlive = v
	p.Present |= 1 << PropServerKeepAlive
}

// SetAuthenticationMethod names the method of extended authentication.
func (p *Properties) SetAuthenticationMethod(v string) {
	p.AuthenticationMethod = v
	p.Present |= 1 << PropAuthenticationMethod
}

// SetAuthenticationData carries data that the Authentication Method defines.
func (p *Properties) SetAuthenticationData(v []byte) {
	p.AuthenticationData = v
	p.Present |= 1 << PropAuthenticationData
}

// SetRequestProblemInformation tells whether the server may explain itself (1) or not (0).
func (p *Properties) SetRequestProblemInformation(v byte) {
	p.RequestProblemInformation = v
	p.Present |= 1 << PropRequestProblemInformation
}

// SetWillDelayInterval sets how many seconds the will waits.
func (p *Properties) SetWillDelayInterval(v uint32) {
	p.WillDelayInterval = v
	p.Present |= 1 << PropWillDelayInterval
}

// SetRequestResponseInformation asks for Response Information (1).
func (p *Properties) SetRequestResponseInformation(v byte) {
	p.RequestResponseInformation = v
	p.Present |= 1 << PropRequestResponseInformation
}

// SetResponseInformation gives the base of response topics.
func (p *Properties) SetResponseInformation(v string) {
	p.ResponseInformation = v
	p.Present |= 1 << PropResponseInformation
}

// SetServerReference names another server to use.
func (p *Properties) SetServerReference(v string) {
	p.ServerReference = v
	p.Present |= 1 << PropServerReference
}

// SetReasonString explains the Reason Code to people.
func (p *Properties) SetReasonString(v string) {
	p.ReasonString = v
	p.Present |= 1 << PropReasonString
}

// SetReceiveMaximum bounds the unacknowledged messages towards the sender.
func (p *Properties) SetReceiveMaximum(v uint16) {
	p.ReceiveMaximum = v
	p.Present |= 1 << PropReceiveMaximum
}

// SetTopicAliasMaximum bounds the topic aliases towards the sender.
func (p *Properties) SetTopicAliasMaximum(v uint16) {
	p.TopicAliasMaximum = v
	p.Present |= 1 << PropTopicAliasMaximum
}

// SetTopicAlias stands for, or defines, a Topic Name.
func (p *Properties) SetTopicAlias(v uint16) {
	p.TopicAlias = v
	p.Present |= 1 << PropTopicAlias
}

// SetMaximumQoS announces the highest QoS served.
func (p *Properties) SetMaximumQoS(v byte) {
	p.MaximumQoS = v
	p.Present |= 1 << PropMaximumQoS
}

// SetRetainAvailable announces whether retained messages are served.
func (p *Properties) SetRetainAvailable(v byte) {
	p.RetainAvailable = v
	p.Present |= 1 << PropRetainAvailable
}

// SetMaximumPacketSize bounds the packets towards the sender.
func (p *Properties) SetMaximumPacketSize(v uint32) {
	p.MaximumPacketSize = v
	p.Present |= 1 << PropMaximumPacketSize
}

// SetWildcardSubscriptionAvailable announces whether wildcards are served.
func (p *Properties) SetWildcardSubscriptionAvailable(v byte) {
	p.WildcardSubscriptionAvailable = v
	p.Present |= 1 << PropWildcardSubscriptionAvailable
}

// SetSubscriptionIdentifierAvailable announces whether Subscription Identifiers are served.
func (p *Properties) SetSubscriptionIdentifierAvailable(v byte) {
	p.SubscriptionIdentifierAvailable = v
	p.Present |= 1 << PropSubscriptionIdentifierAvailable
}

// SetSharedSubscriptionAvailable announces whether shared subscriptions are served.
func (p *Properties) SetSharedSubscriptionAvailable(v byte) {
	p.SharedSubscriptionAvailable = v
	p.Present |= 1 << PropSharedSubscriptionAvailable
}
