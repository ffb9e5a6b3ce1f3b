"""Operations on packed rows, independent of what the network is: attention, dropout, random draws, compilation."""
